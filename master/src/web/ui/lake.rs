//! The lakes: years, months and days, their files, and the rows in them.

use maud::{Markup, html};
use serde_json::Value;

use super::table::{Column, Key, Table};
use super::{Live, Page, Part, Place, View, encoded, words};
use crate::browse::lake::{FILES, File, FileColumn, FileRow, Folder, Size, SubFolder};
use crate::browse::rows::Rows;
use crate::browse::text::visible;
use crate::snapshot::unix_now_ms;
use crate::web::api::browse::LakeRow;
use crate::web::problem::Problem;

pub(in crate::web) fn list(lakes: &[LakeRow]) -> Page {
    Page {
        title: "Lakes".into(),
        place: Place::Lakes,
        parts: vec![Part {
            id: "part-lakes",
            body: html! {
                @if lakes.is_empty() { p.empty { "No pipeline has a lake. Give one " code { "[sinks.lake]" } " and submit it." } } @else {
                    div.scroll tabindex="0" role="region" aria-label="Lakes" { table {
                        thead { tr { th scope="col" { "Pipeline" } th scope="col" { "Name" } th scope="col" { "Lake" } } }
                        tbody { @for lake in lakes { tr {
                            td { a href={ "/lakes/" (encoded(&lake.pipeline)) } { (lake.pipeline) } }
                            td { (lake.name) }
                            td { (lake.lake) }
                        } } }
                    } }
                }
            },
        }],
        live: Live::Never,
    }
}

fn rows(size: Size) -> Markup {
    html! { @match size.rows { Some(rows) => (words::count(rows)), None => span.quiet title="many files: open a folder" { "–" } } }
}

pub(in crate::web) fn folder(folder: &Folder, duckdb: &str, page: usize, view: &View) -> Page {
    let path = format!("/lakes/{}", encoded(&folder.pipeline));
    let crumbs: Vec<&str> = folder.folder.split('/').filter(|part| !part.is_empty()).collect();
    let is_day = crumbs.len() == 3;
    let body = html! {
        nav.pager aria-label="Folders" {
            a href="/lakes" { "Lakes" }
            a href=(path) { (folder.pipeline) }
            @for depth in 1..=crumbs.len() {
                a href={ (path) "?folder=" (encoded(&crumbs[..depth].join("/"))) } { (crumbs[depth - 1]) }
            }
        }
        dl.summary {
            (words::term("Lake", &html! { (folder.lake) }))
            (words::term("Files", &html! { (words::count(folder.total.files as u64)) }))
            (words::term("Rows", &rows(folder.total)))
            (words::term("Size", &words::bytes(folder.total.bytes)))
        }
        @if folder.is_cut { p.notice role="status" { "There is more than was listed: open a folder to see all of it." } }
        @if is_day { (files(folder, page, view)) } @else { (folders(folder, &path, view)) }
        (query(duckdb))
    };
    let title = if folder.folder.is_empty() { "Lake".to_owned() } else { folder.folder.clone() };
    Page { title, place: Place::Lakes, parts: vec![Part { id: "part-lake", body }], live: Live::Asking }
}

fn folders(folder: &Folder, path: &str, view: &View) -> Markup {
    Table {
        id: "folders",
        heading: "Folders".into(),
        empty: html! { "Nothing is in it yet: files appear when they are closed, by default within a minute." },
        columns: vec![
            Column::text("folder", "Folder", |row: &SubFolder| Key::text(&row.folder), |row| html! {
                a href={ (path) "?folder=" (encoded(&row.folder)) } { (row.folder.rsplit('/').next().unwrap_or_default()) }
            }),
            Column::number("files", "Files", |row: &SubFolder| Key::count(row.size.files as u64), |row| html! { (words::count(row.size.files as u64)) }),
            Column::number("rows", "Rows", |row: &SubFolder| Key::count(row.size.rows.unwrap_or(0)), |row| rows(row.size)),
            Column::number("bytes", "Size", |row: &SubFolder| Key::count(row.size.bytes), |row| words::bytes(row.size.bytes)),
        ],
        rows: folder.folders.iter().collect(),
        rows_a_page: 400,
    }
    .render(view)
}

fn files(folder: &Folder, page: usize, view: &View) -> Markup {
    let now = unix_now_ms();
    let offsets = |row: &FileRow| {
        row.footer.as_ref().and_then(|footer| Some((footer.first_offset?, footer.next_offset?)))
    };
    let table = Table {
        id: "files",
        heading: "Files".into(),
        empty: html! { "No file on this page." },
        columns: vec![
            Column::text(
                "file",
                "File",
                |row: &FileRow| Key::text(&row.key),
                |row| {
                    html! {
                        a.object href={ "/lakes/" (encoded(&folder.pipeline)) "/file?key=" (encoded(&row.key)) } { (row.key.rsplit('/').next().unwrap_or_default()) }
                    }
                },
            ),
            Column::number(
                "rows",
                "Rows",
                |row: &FileRow| Key::count(row.footer.as_ref().map_or(0, |footer| footer.rows)),
                |row| {
                    html! {
                        @match &row.footer { Some(footer) => (words::count(footer.rows)), None => em { "unreadable" } }
                    }
                },
            ),
            Column::number(
                "bytes",
                "Size",
                |row: &FileRow| Key::count(row.bytes),
                |row| words::bytes(row.bytes),
            ),
            Column::number(
                "offsets",
                "Offsets of its flush",
                move |row: &FileRow| Key::maybe(offsets(row).map(|(first, _)| first)),
                move |row| {
                    html! {
                        @match offsets(row) { Some((first, next)) => { (words::count(first)) " to " (words::count(next)) } None => "–" }
                    }
                },
            ),
            Column::number(
                "groups",
                "Row groups",
                |row: &FileRow| {
                    Key::count(row.footer.as_ref().map_or(0, |footer| footer.row_groups.len() as u64))
                },
                |row| {
                    html! {
                        @match &row.footer { Some(footer) => (footer.row_groups.len()), None => "–" }
                    }
                },
            ),
            Column::number(
                "at",
                "Written",
                |row: &FileRow| Key::maybe(Some(row.at_ms)),
                move |row| words::time(u64::try_from(row.at_ms).unwrap_or(0), now),
            ),
        ],
        rows: folder.files.iter().collect(),
        rows_a_page: FILES,
    };
    let pages = folder.total.files.div_ceil(FILES).max(1);
    let link = |to: usize, words: &str| {
        let query = view.with(&[("page", Some(&to.to_string()))]);
        html! { a href=(query) { (words) } }
    };
    html! {
        (table.render(view))
        @if pages > 1 {
            nav.pager aria-label="Pages of files" {
                @if page > 1 { (link(page - 1, "Previous")) }
                span { "Page " (page) " of " (pages) }
                @if page < pages { (link(page + 1, "Next")) }
            }
        }
    }
}

fn query(duckdb: &str) -> Markup {
    html! {
        h2 { "Read it with DuckDB" }
        pre #duckdb tabindex="0" role="region" aria-label="The query" { (duckdb) }
        div.actions { button type="button" data-copy="duckdb" { "Copy" } }
    }
}

pub(in crate::web) fn file(file: &File, rows: &Result<Rows, Problem>) -> Page {
    let footer = &file.footer;
    let (folder, name) = file.key.rsplit_once('/').unwrap_or(("", &file.key));
    let body = html! {
        p { a href={ "/lakes/" (encoded(&file.pipeline)) "?folder=" (encoded(folder)) } { "All files of " (folder) } }
        dl.summary {
            (words::term("Rows", &html! { (words::count(footer.rows)) }))
            (words::term("Size", &words::bytes(file.bytes)))
            (words::term("Written", &words::time(u64::try_from(file.at_ms).unwrap_or(0), unix_now_ms())))
            (words::term("Partition", &html! { (footer.slot.as_deref().unwrap_or("–")) }))
            (words::term("First offset", &html! { (words::maybe(footer.first_offset)) }))
            (words::term("Next offset", &html! { (words::maybe(footer.next_offset)) }))
            (words::term("Epoch", &html! { (words::maybe(footer.epoch)) }))
            (words::term("Flush", &html! { (words::maybe(footer.sequence)) }))
            (words::term("Version", &html! { (footer.version.as_deref().unwrap_or("–")) }))
        }
        h2 { "Row groups (" (footer.row_groups.len()) ")" }
        div.scroll tabindex="0" role="region" aria-label="Row groups" { table {
            thead { tr { th.number scope="col" { "Number" } th.number scope="col" { "Rows" } th.number scope="col" { "Compressed" } th.number scope="col" { "Uncompressed" } } }
            tbody { @for (number, group) in footer.row_groups.iter().take(200).enumerate() {
                tr { td.number { (number) } td.number { (words::count(group.rows)) } td.number { (words::bytes(group.bytes)) } td.number { (words::bytes(group.uncompressed_bytes)) } }
            } }
        } }
        (preview(rows))
        (schema(&footer.schema))
        (query(&file.duckdb))
    };
    Page {
        title: name.to_owned(),
        place: Place::Lakes,
        parts: vec![Part { id: "part-file", body }],
        live: Live::Never,
    }
}

fn preview(rows: &Result<Rows, Problem>) -> Markup {
    html! {
        h2 #rows { "Rows" }
        @match rows {
            Err(problem) => p.notice role="status" { (problem.detail) },
            Ok(rows) => {
                p.quiet { "The first " (rows.rows.len()) ", from worker " (rows.worker) " over Arrow Flight." }
                div.scroll tabindex="0" role="region" aria-label="Rows" { table {
                    thead { tr { @for column in &rows.columns { th scope="col" { (visible(column)) } } } }
                    tbody { @for row in &rows.rows { tr { @for value in row { td { (cell(value)) } } } } }
                } }
            }
        }
    }
}

fn cell(value: &Value) -> Markup {
    const LONGEST: usize = 120;
    let text = match value {
        Value::Null => return html! { span.quiet { "–" } },
        Value::String(text) => visible(text),
        other => visible(&other.to_string()),
    };
    let cut: String = text.chars().take(LONGEST).collect();
    html! { bdi { (cut) @if cut.len() < text.len() { "…" } } }
}

fn schema(columns: &[FileColumn]) -> Markup {
    html! {
        details {
            summary { "Schema (" (columns.len()) " columns)" }
            div.scroll tabindex="0" role="region" aria-label="Schema" { table {
                thead { tr { th scope="col" { "Column" } th scope="col" { "Type" } th scope="col" { "Null" } } }
                tbody { @for column in columns { tr { td { (column.name) } td { (column.kind) } td { @if column.is_nullable { "may be" } @else { "never" } } } } }
            } }
        }
    }
}
