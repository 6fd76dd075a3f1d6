//! Topics and their messages. What clients sent stands in text nodes alone.

use maud::{Markup, html};
use serde_json::Value;

use super::table::{Column, Key, Table};
use super::{Live, Page, Part, Place, View, encoded, words};
use crate::browse::messages::{Header, Message, Messages};
use crate::browse::text::{Shown, visible};
use crate::browse::topics::{Group, Topic, TopicDetail, Watermarks};
use crate::browse::trace::Traced;
use crate::snapshot::unix_now_ms;

const ROWS: usize = 100;

pub(in crate::web) fn list(topics: &[Topic], view: &View) -> Page {
    let table = Table {
        id: "topics",
        heading: "Topics".into(),
        empty: html! { "No topic: a pipeline names the Kafka that is asked. Submit one with: " code { "millrace submit FILE.toml" } },
        columns: vec![
            Column::text(
                "topic",
                "Topic",
                |row: &Topic| Key::text(&row.topic),
                |row| {
                    html! {
                        a href={ "/topics/" (encoded(&row.topic)) "?kafka=" (encoded(&row.kafka)) } { (row.topic) }
                    }
                },
            ),
            Column::text(
                "roles",
                "What it is",
                |row: &Topic| Key::text(row.roles.join(", ")),
                |row| {
                    html! {
                        @if row.roles.is_empty() { span.quiet { "no pipeline's" } } @else { (row.roles.join(", ")) }
                    }
                },
            ),
            Column::number(
                "partitions",
                "Partitions",
                |row: &Topic| Key::count(row.partitions as u64),
                |row| html! { (row.partitions) },
            ),
            Column::number(
                "records",
                "Offsets held",
                |row: &Topic| Key::maybe(Some(row.records)),
                |row| html! { (words::count(row.records)) },
            ),
            Column::number(
                "size",
                "Size",
                |row: &Topic| Key::count(row.bytes.unwrap_or(0)),
                |row| size(row.bytes),
            ),
            Column::number(
                "rate",
                "Offsets/s",
                |row: &Topic| Key::Number(row.records_per_second.unwrap_or(-1.0)),
                |row| {
                    html! {
                        @match row.records_per_second { Some(rate) => (words::rate(rate)), None => span.quiet title="it is told from the second look on" { "–" } }
                    }
                },
            ),
            Column::text("kafka", "Kafka", |row: &Topic| Key::text(&row.kafka), |row| html! { (row.kafka) }),
        ],
        rows: topics.iter().collect(),
        rows_a_page: ROWS,
    };
    Page {
        title: "Topics".into(),
        place: Place::Topics,
        parts: vec![Part {
            id: "part-topics",
            body: html! {
                (table.render(view))
                p.quiet { "As of " (words::time(unix_now_ms(), unix_now_ms())) ". In topics that are written in transactions each commit takes an offset, too." }
            },
        }],
        live: Live::Asking,
    }
}

pub(in crate::web) fn detail(detail: &TopicDetail, read: &Messages, view: &View) -> Page {
    let topic = &detail.topic;
    Page {
        title: format!("Topic {}", topic.topic),
        place: Place::Topics,
        parts: vec![
            Part {
                id: "part-topic",
                body: html! {
                    dl.summary {
                        (words::term("Partitions", &html! { (topic.partitions) }))
                        (words::term("Offsets held", &html! { (words::count(topic.records)) }))
                        (words::term("Size", &size(topic.bytes)))
                        (words::term("Offsets/s", &html! { @match topic.records_per_second { Some(rate) => (words::rate(rate)), None => "–" } }))
                        (words::term("What it is", &html! { @if topic.roles.is_empty() { "no pipeline's" } @else { (topic.roles.join(", ")) } }))
                        (words::term("Kafka", &html! { (topic.kafka) }))
                    }
                },
            },
            Part { id: "part-partitions", body: partitions(detail, view) },
            Part { id: "part-groups", body: groups(&detail.groups, view) },
            Part { id: "part-messages", body: messages(read, view) },
        ],
        live: Live::Asking,
    }
}

/// On the brokers' disks.
fn size(bytes: Option<u64>) -> Markup {
    html! {
        @match bytes { Some(bytes) => (words::bytes(bytes)), None => span.quiet title="a broker does not say" { "–" } }
    }
}

fn partitions(detail: &TopicDetail, view: &View) -> Markup {
    let name = &detail.topic.topic;
    let kafka = &detail.topic.kafka;
    Table {
        id: "partitions",
        heading: "Partitions".into(),
        empty: html! { "It has no partition that can be asked." },
        columns: vec![
            Column::number("partition", "Partition", |row: &Watermarks| Key::Number(f64::from(row.partition)), |row| html! {
                a href={ "/topics/" (encoded(name)) "?kafka=" (encoded(kafka)) "&partition=" (row.partition) "#messages" } { (row.partition) }
            }),
            Column::number("first", "First offset", |row: &Watermarks| Key::maybe(Some(row.first)), |row| html! { (words::count(row.first)) }),
            Column::number("end", "End", |row: &Watermarks| Key::maybe(Some(row.end)), |row| html! { (words::count(row.end)) }),
            Column::number("held", "Held", |row: &Watermarks| Key::maybe(Some(row.end - row.first)), |row| html! { (words::count(row.end - row.first)) }),
            Column::number("size", "Size", |row: &Watermarks| Key::count(row.bytes.unwrap_or(0)), |row| size(row.bytes)),
            Column::plain("Lag of groups", |row: &Watermarks| html! {
                @for group in &detail.groups {
                    @if let Some(own) = group.partitions.iter().find(|own| own.partition == row.partition) {
                        span { (group.group) " " (words::count(own.lag)) " " }
                    }
                }
            }),
        ],
        rows: detail.watermarks.iter().collect(),
        rows_a_page: ROWS,
    }
    .render(view)
}

fn groups(groups: &[Group], view: &View) -> Markup {
    Table {
        id: "groups",
        heading: "Consumer groups".into(),
        empty: html! { "No group has committed an offset of this topic." },
        columns: vec![
            Column::text("group", "Group", |row: &Group| Key::text(&row.group), |row| html! { (row.group) }),
            Column::text("state", "State", |row: &Group| Key::text(&row.state), |row| html! { (row.state) }),
            Column::number(
                "members",
                "Members",
                |row: &Group| Key::count(row.members as u64),
                |row| html! { (row.members) },
            ),
            Column::number(
                "partitions",
                "Partitions",
                |row: &Group| Key::count(row.partitions.len() as u64),
                |row| html! { (row.partitions.len()) },
            ),
            Column::number(
                "lag",
                "Lag",
                |row: &Group| Key::maybe(Some(row.lag)),
                |row| html! { (words::count(row.lag)) },
            ),
        ],
        rows: groups.iter().collect(),
        rows_a_page: ROWS,
    }
    .render(view)
}

fn messages(read: &Messages, view: &View) -> Markup {
    let partition = read.partition.to_string();
    let value = |key: &str| view.get(key).unwrap_or_default().to_owned();
    let limit = view.get("limit").filter(|limit| !limit.is_empty()).unwrap_or("50").to_owned();
    let step = i64::try_from(read.messages.len().max(1)).unwrap_or(50);
    let at = |from: i64| {
        view.with(&[("from", Some(&from.to_string())), ("at", None), ("partition", Some(&partition))])
    };
    html! {
        h2 #messages { "Messages of partition " (read.partition) }
        form.fields method="get" action="#messages" {
            input type="hidden" name="kafka" value=(read.kafka);
            label { "Partition" input name="partition" inputmode="numeric" size="6" value=(read.partition); }
            label { "From offset" input name="from" inputmode="numeric" size="12" value=(value("from")); }
            label { "or from time (UTC)" input name="at" size="22" placeholder="2024-01-15T10:30:00Z" value=(value("at")); }
            label { "Messages" input name="limit" inputmode="numeric" size="5" value=(limit); }
            button type="submit" { "Show" }
        }
        @if read.messages.is_empty() {
            p.empty { "No message from offset " (words::count(read.from)) " on: the partition holds " (words::count(read.first)) " to " (words::count(read.end)) "." }
        } @else {
            nav.pager aria-label="Messages" {
                @if read.from > read.first { a href={ (at((read.from - step).max(read.first))) "#messages" } { "Earlier" } }
                @if let Some(next) = read.next { a href={ (at(next)) "#messages" } { "Later" } }
                span.quiet { "It holds " (words::count(read.first)) " to " (words::count(read.end)) }
            }
            div.scroll tabindex="0" role="region" aria-label="Messages" {
                table {
                    thead { tr { th.number scope="col" { "Offset" } th scope="col" { "Time" } th scope="col" { "Key" } th scope="col" { "Headers" } th scope="col" { "Value" } } }
                    tbody { @for message in &read.messages { (row(read, message)) } }
                }
            }
        }
    }
}

fn link(topic: &str, kafka: &str, partition: i32, offset: i64) -> String {
    format!("/topics/{}/{partition}/{offset}?kafka={}", encoded(topic), encoded(kafka))
}

fn row(read: &Messages, message: &Message) -> Markup {
    let now = unix_now_ms();
    html! {
        tr {
            td.number { a href=(link(&read.topic, &read.kafka, message.partition, message.offset)) { (message.offset) } }
            td { @match message.at_ms.and_then(|at| u64::try_from(at).ok()) { Some(at) => (words::time(at, now)), None => "–" } }
            td { (line(message.key.as_ref())) }
            td { @if !message.headers.is_empty() { (message.headers.len()) ": " (message.headers.iter().take(3).map(|header| visible(&header.name)).collect::<Vec<_>>().join(", ")) } }
            td.object { (line(message.value.as_ref())) }
        }
    }
}

/// Some of it, in one line.
fn line(value: Option<&Shown>) -> Markup {
    const LONGEST: usize = 200;
    match value {
        None => html! { span.quiet { "none" } },
        Some(value) => {
            let text = value.line();
            let cut: String = text.chars().take(LONGEST).collect();
            html! { bdi { (cut) } @if cut.len() < text.len() || value.is_cut { "…" } }
        }
    }
}

pub(in crate::web) fn message(traced: &Traced) -> Page {
    let message = &traced.message;
    let now = unix_now_ms();
    let json = message
        .value
        .as_ref()
        .filter(|value| !value.is_cut)
        .and_then(|value| serde_json::from_str::<Value>(&value.text).ok());
    let pretty = json.and_then(|json| serde_json::to_string_pretty(&json).ok());
    let back = format!(
        "/topics/{}?kafka={}&partition={}&from={}#messages",
        encoded(&traced.topic),
        encoded(&traced.kafka),
        message.partition,
        message.offset
    );
    Page {
        title: format!("{}/{}@{}", traced.topic, message.partition, message.offset),
        place: Place::Topics,
        parts: vec![
            Part {
                id: "part-message",
                body: html! {
                    p { a href=(back) { "Messages around it" } }
                    dl.summary {
                        (words::term("Partition", &html! { (message.partition) }))
                        (words::term("Offset", &html! { (message.offset) }))
                        (words::term("Time", &html! { @match message.at_ms.and_then(|at| u64::try_from(at).ok()) { Some(at) => (words::time(at, now)), None => "–" } }))
                        (words::term("Key", &line(message.key.as_ref())))
                        (words::term("Value", &html! { @match &message.value { Some(value) => (words::bytes(value.bytes as u64)), None => "none" } }))
                    }
                },
            },
            Part { id: "part-went", body: went(traced) },
            Part {
                id: "part-value",
                body: html! {
                    h2 { "Value" }
                    @match (&pretty, &message.value) {
                        (Some(pretty), _) => pre #value tabindex="0" role="region" aria-label="The value" { (lines(pretty)) },
                        (None, Some(value)) => {
                            p.quiet { @if value.is_utf8 { "It is no JSON." } @else { "It is no UTF-8: \u{fffd} stands for what can't be shown." } @if value.is_cut { " Only its beginning is shown." } }
                            pre #value tabindex="0" role="region" aria-label="The value" { (lines(&value.text)) }
                        }
                        (None, None) => p.empty { "The record has no value." },
                    }
                    (headers(&message.headers))
                },
            },
        ],
        live: Live::Never,
    }
}

/// Text of several lines: its other control characters are made visible.
fn lines(text: &str) -> String {
    text.split('\n').map(visible).collect::<Vec<_>>().join("\n")
}

fn went(traced: &Traced) -> Markup {
    html! {
        h2 { "Where it went" }
        @if traced.went.is_empty() { p.empty { "No pipeline reads this topic." } }
        @for went in &traced.went {
            dl.summary {
                (words::term("Pipeline", &html! { a href={ "/pipelines/" (encoded(&went.pipeline)) } { (went.pipeline) } }))
                (words::term("Worker now", &html! { @match &went.worker { Some(worker) => a href={ "/workers/" (encoded(worker)) } { (worker) }, None => "nobody" } }))
                (words::term("Topic sink", &passed(went.is_past_topic)))
                (words::term("Lake", &passed(went.is_past_lake)))
                (words::term("File", &html! { @match &went.file {
                    Some(key) => a href={ "/lakes/" (encoded(&went.pipeline)) "/file?key=" (encoded(key)) } { (key) },
                    None => "–",
                } }))
            }
            p { (went.told) "." }
        }
    }
}

fn passed(is_past: Option<bool>) -> Markup {
    html! { @match is_past { Some(true) => "has passed it", Some(false) => "not yet", None => "–" } }
}

fn headers(headers: &[Header]) -> Markup {
    html! {
        h2 { "Headers (" (headers.len()) ")" }
        @if headers.is_empty() { p.empty { "It has none." } } @else {
            table {
                thead { tr { th scope="col" { "Name" } th scope="col" { "Value" } } }
                tbody { @for header in headers { tr { td { bdi { (visible(&header.name)) } } td { (line(header.value.as_ref())) } } } }
            }
        }
    }
}
