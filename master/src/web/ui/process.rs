//! A process: what it runs on and with, and the last lines of its log.

use maud::{Markup, html};

use super::{Live, Page, Part, Place, encoded, words};
use crate::browse::text::visible;
use crate::environment::{Environment, Variable};
use crate::web::problem::Problem;

pub(in crate::web) fn environment(environment: &Environment) -> Page {
    let maybe =
        |value: &Option<String>| html! { @match value { Some(value) => (visible(value)), None => "–" } };
    let size =
        |bytes: Option<u64>| html! { @match bytes { Some(bytes) => (words::bytes(bytes)), None => "–" } };
    let body = html! {
        p { a href="/" { "Back to the master" } " · " a href="/log" { "Log" } }
        dl.summary {
            (words::term("Version", &html! { (environment.version) }))
            (words::term("librdkafka", &html! { (environment.librdkafka) }))
            (words::term("Pid", &html! { (environment.pid) }))
            (words::term("Host", &maybe(&environment.host)))
            (words::term("Kernel", &maybe(&environment.kernel)))
            (words::term("Processor", &maybe(&environment.processor)))
            (words::term("Cores", &html! { @match environment.cores { Some(cores) => (cores), None => "–" } }))
            (words::term("Memory of the machine", &size(environment.memory_bytes)))
            (words::term("Resident", &size(environment.resident_bytes)))
            (words::term("Folder", &maybe(&environment.folder)))
        }
        h2 { "Command line" }
        pre tabindex="0" role="region" aria-label="Command line" {
            @for (index, argument) in environment.command_line.iter().enumerate() {
                @if index > 0 { @if argument.starts_with('-') { "\n  " } @else { " " } }
                (visible(argument))
            }
        }
        h2 { "Variables (" (environment.variables.len()) ")" }
        (variables(&environment.variables))
    };
    Page {
        title: "Environment of the master".into(),
        place: Place::Elsewhere,
        parts: vec![Part { id: "part-environment", body }],
        live: Live::Never,
    }
}

fn variables(variables: &[Variable]) -> Markup {
    html! {
        @if variables.is_empty() {
            p.empty { "None that Millrace or its libraries read is set." }
        } @else {
            div.scroll tabindex="0" role="region" aria-label="Variables" { table {
                thead { tr { th scope="col" { "Name" } th scope="col" { "Value" } } }
                tbody { @for variable in variables { tr {
                    td { (visible(&variable.name)) }
                    td.wide { (visible(&variable.value)) }
                } } }
            } }
        }
    }
}

/// The log of a worker, or of the master where `worker` is none.
pub(in crate::web) fn log(worker: Option<&str>, lines: Result<&[String], &Problem>) -> Page {
    let body = html! {
        p {
            @match worker {
                Some(worker) => a href={ "/workers/" (encoded(worker)) } { "Back to the worker" },
                None => { a href="/" { "Back to the master" } " · " a href="/environment" { "Environment" } }
            }
        }
        (tail(lines))
    };
    Page {
        title: worker.map_or("Log of the master".into(), |worker| format!("Log of {worker}")),
        place: Place::Elsewhere,
        parts: vec![Part { id: "part-log", body }],
        live: Live::Asking,
    }
}

fn tail(lines: Result<&[String], &Problem>) -> Markup {
    html! {
        @match lines {
            Err(problem) => p.notice role="status" { (problem.detail) },
            Ok([]) => p.empty { "It has logged nothing yet. " code { "--log debug" } " says more." },
            Ok(lines) => {
                p.quiet { "The last " (lines.len()) " lines, the latest first." }
                pre tabindex="0" role="region" aria-label="Log" { @for line in lines.iter().rev() { (visible(line)) "\n" } }
            }
        }
    }
}
