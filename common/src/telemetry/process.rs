//! Metrics of the process itself, under the names that Prometheus' own client libraries use. Read from Linux's `/proc`
//! when somebody asks; what can't be read there is left out.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

/// What `/proc/self/stat` counts processor time in: USER_HZ, 100 a second on every Linux that runs this.
const TICKS_A_SECOND: f64 = 100.0;

/// Memory of this process that is in RAM; `None` where that can't be read.
pub fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    figures(&Files { status, ..Files::default() }).resident_bytes
}

/// The registry of the process' own metrics.
pub(crate) fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Process));
    registry
}

#[derive(Debug)]
struct Process;

/// `/proc/self/…` as text.
#[derive(Debug, Default)]
struct Files {
    stat: String,
    status: String,
    limits: String,
    /// `/proc/stat`, of the whole machine.
    machine: String,
}

#[derive(Debug, Default, PartialEq)]
struct Figures {
    cpu_seconds: Option<f64>,
    resident_bytes: Option<u64>,
    threads: Option<u64>,
    most_open_files: Option<u64>,
    /// Since 1970.
    start_seconds: Option<f64>,
}

fn figures(files: &Files) -> Figures {
    // The second field is the program's name in parentheses, which may hold spaces and parentheses.
    let after_name = files.stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let field = |number: usize| after_name.split_ascii_whitespace().nth(number - 3)?.parse::<f64>().ok();
    let line = |text: &str, name: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(name))?.to_owned();
        rest.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    let boot = line(&files.machine, "btime ");
    Figures {
        cpu_seconds: field(14).zip(field(15)).map(|(user, system)| (user + system) / TICKS_A_SECOND),
        resident_bytes: line(&files.status, "VmRSS:").map(|kib| kib << 10),
        threads: line(&files.status, "Threads:"),
        most_open_files: line(&files.limits, "Max open files"),
        start_seconds: boot.zip(field(22)).map(|(boot, ticks)| boot as f64 + ticks / TICKS_A_SECOND),
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let figures = figures(&Files {
            stat: read("/proc/self/stat"),
            status: read("/proc/self/status"),
            limits: read("/proc/self/limits"),
            machine: read("/proc/stat"),
        });
        if let Some(seconds) = figures.cpu_seconds {
            let metric = ConstCounter::new(seconds);
            let help = "Processor time of the process, in user and system mode";
            let unit = Some(&Unit::Seconds);
            metric.encode(encoder.encode_descriptor("process_cpu", help, unit, metric.metric_type())?)?;
        }
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: Option<f64>| {
            let Some(value) = value else { return Ok(()) };
            let metric = ConstGauge::new(value);
            metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
        };
        let whole = |value: Option<u64>| value.map(|value| value as f64);
        let memory = whole(figures.resident_bytes);
        gauge("process_resident_memory", "Memory of the process that is in RAM", Some(&Unit::Bytes), memory)?;
        // Itself is one of them while it is read.
        let open = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1) as u64);
        gauge("process_open_fds", "Open file descriptors, sockets too", None, whole(open))?;
        let most = whole(figures.most_open_files);
        gauge("process_max_fds", "The most file descriptors that the process may open", None, most)?;
        gauge("process_threads", "Threads of the process", None, whole(figures.threads))?;
        let start = figures.start_seconds;
        gauge("process_start_time", "When the process began, since 1970 UTC", Some(&Unit::Seconds), start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_whatever_the_program_is_called() {
        let files = Files {
            stat: "42 (a ) (b) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 9 0 1000 1 2 3".into(),
            status: "Name:\tx\nVmRSS:\t    2048 kB\nThreads:\t9\n".into(),
            limits: "Limit   Soft Limit  Hard Limit  Units\nMax open files            1024                 4096                 files\n".into(),
            machine: "cpu 1 2 3\nbtime 1700000000\n".into(),
        };
        let expected = Figures {
            cpu_seconds: Some(3.0),
            resident_bytes: Some(2 << 20),
            threads: Some(9),
            most_open_files: Some(1024),
            start_seconds: Some(1_700_000_010.0),
        };
        assert_eq!(figures(&files), expected);
        assert_eq!(figures(&Files::default()), Figures::default());
    }

    #[test]
    fn this_process_has_them_all() {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry()).expect("text");
        for name in [
            "process_cpu_seconds_total ",
            "process_resident_memory_bytes ",
            "process_open_fds ",
            "process_max_fds ",
            "process_threads ",
            "process_start_time_seconds ",
        ] {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let value: f64 = line.unwrap_or_else(|| panic!("{name}: {text}")).parse().expect("number");
            assert!(value >= 0.0, "{name}{value}");
        }
    }
}
