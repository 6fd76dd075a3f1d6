//! What was measured, as JSON for programs and as Markdown for people. Pure but for the machine's own description.

use serde::Serialize;

use crate::figures::Rounds;

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) tables: Vec<Table>,
}

/// Where the figures come from.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    processor: String,
    processors: usize,
    memory_gib: u64,
    kernel: String,
    millrace: &'static str,
    /// How many processes wanted a processor in the last minute: above `processors`, others had a share of the machine.
    load: String,
}

impl Machine {
    pub(crate) fn read() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':'))
                .map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
        };
        let memory = field(&text("/proc/meminfo"), "MemTotal");
        let kib = memory.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0);
        Self {
            processor: field(&text("/proc/cpuinfo"), "model name"),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: kib >> 20,
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            millrace: millrace_types::VERSION,
            load: text("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
        }
    }
}

/// One part's figures.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    pub(crate) part: &'static str,
    /// What was done, with which settings: a paragraph.
    pub(crate) what: String,
    /// How to do it again.
    pub(crate) command: String,
    /// Names of the columns that say what was varied.
    pub(crate) varied: Vec<&'static str>,
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) decimals: usize,
}

#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// In the order of `varied`.
    pub(crate) varied: Vec<String>,
    /// In the order of `columns`.
    pub(crate) figures: Vec<Rounds>,
}

impl Report {
    pub(crate) fn markdown(&self) -> String {
        let Machine { processor, processors, memory_gib, kernel, millrace, load } = &self.machine;
        let mut text = format!(
            "{processor}, {processors} processors, {memory_gib} GiB, Linux {kernel}; Millrace {millrace}; load {load}\n"
        );
        for table in &self.tables {
            text.push('\n');
            text.push_str(&table.markdown());
        }
        text
    }
}

impl Table {
    fn markdown(&self) -> String {
        let names = self.varied.iter().copied().chain(self.columns.iter().map(|column| column.name));
        let mut text = format!("{}\n\n`{}`\n\n", self.what, self.command);
        text.push_str(&line(names.map(str::to_owned)));
        text.push_str(&line(
            self.varied
                .iter()
                .map(|_| "---".to_owned())
                .chain(self.columns.iter().map(|_| "---:".to_owned())),
        ));
        for row in &self.rows {
            let figures =
                row.figures.iter().zip(&self.columns).map(|(figure, column)| figure.text(column.decimals));
            text.push_str(&line(row.varied.iter().cloned().chain(figures)));
        }
        text
    }
}

fn line(cells: impl Iterator<Item = String>) -> String {
    format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
}
