//! Figures of the process for `/metrics`, under the names that all Prometheus clients use, as the kernel reports them.
//!
//! Not here: figures of the node (`metrics.rs`). Other systems than Linux have no `/proc`: the rows are left out there.

use super::metrics::{Metric, MetricValue, counter, gauge};
use std::fs;
use std::time::Duration;

/// Processor time that this process has used.
pub fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

/// What `/proc/self/stat` says, in the units of the kernel.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    /// User and system time.
    cpu_ticks: u64,
    threads: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

/// The figures of this process, which started so many milliseconds after 1970.
pub fn all(started_ms: u64) -> Vec<Metric> {
    let started = gauge("process_start_time_seconds", "Start of the node, in seconds since 1970", 0);
    let mut rows = vec![Metric { value: MetricValue::Gauge(started_ms as f64 / 1e3), ..started }];
    if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().and_then(|text| parse_stat(&text)) {
        let cpu = counter("process_cpu_seconds_total", "User and system time of the process", 0);
        let cpu_seconds = stat.cpu_ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
        let resident_bytes = stat.resident_pages * rustix::param::page_size() as u64;
        rows.extend([
            Metric { value: MetricValue::Counter(cpu_seconds), ..cpu },
            gauge("process_threads", "Threads of the process", stat.threads),
            gauge("process_virtual_memory_bytes", "Virtual memory of the process", stat.virtual_bytes),
            gauge("process_resident_memory_bytes", "Resident memory of the process", resident_bytes),
        ]);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // The listing itself needs one.
        let open = open.count().saturating_sub(1) as u64;
        rows.push(gauge("process_open_fds", "Open file descriptors of the process", open));
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        rows.push(gauge(
            "process_max_fds",
            "Most file descriptors that the process may open",
            limit.unwrap_or(u64::MAX),
        ));
    }
    rows
}

/// The fields after the command's name, which may contain anything but ends with the last parenthesis: see proc(5).
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    // The first field after the name has the number 3.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat {
        cpu_ticks: field(14)? + field(15)?,
        threads: field(20)?,
        virtual_bytes: field(23)?,
        resident_pages: field(24)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_after_any_name() {
        let text = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 9 0 100 4096 3 18446744073709551615";
        let stat = Stat { cpu_ticks: 200, threads: 9, virtual_bytes: 4096, resident_pages: 3 };
        assert_eq!(parse_stat(text), Some(stat));
        assert_eq!((parse_stat(""), parse_stat("7 (a) S 1")), (None, None));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_kernel_reports_this_process() {
        let rows = all(1_000);
        for name in ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"] {
            let row = rows.iter().find(|row| row.name == name).unwrap();
            assert!(matches!(row.value, MetricValue::Gauge(it) | MetricValue::Counter(it) if it >= 0.0), "{row:?}");
        }
    }
}
