//! What Linux says of this process, under the names that every Prometheus client uses.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Clock ticks a second, which Linux tells programs to be this many on every architecture.
const TICKS: f64 = 100.0;

/// Reads `/proc` when it is asked. What the kernel does not tell is left out.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let read = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).ok();
        if let Some(seconds) = read("stat").as_deref().and_then(cpu_seconds) {
            let metric = ConstCounter::new(seconds);
            let help = "CPU time of the process, of user and system";
            metric.encode(encoder.encode_descriptor(
                "process_cpu",
                help,
                Some(&Unit::Seconds),
                metric.metric_type(),
            )?)?;
        }
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: Option<u64>| {
            let Some(value) = value else { return Ok(()) };
            let metric = ConstGauge::new(value);
            metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
        };
        gauge(
            "process_resident_memory",
            "Resident memory of the process",
            Some(&Unit::Bytes),
            read("status").as_deref().and_then(resident_bytes),
        )?;
        // The look itself has one open.
        let open = fs::read_dir("/proc/self/fd").map(|open| open.count().saturating_sub(1) as u64);
        gauge("process_open_fds", "Open file descriptors", None, open.ok())?;
        gauge(
            "process_max_fds",
            "File descriptors that may be open",
            None,
            read("limits").as_deref().and_then(max_fds),
        )
    }
}

/// User and system time are the 14th and 15th field; the second, the program's name, may have spaces.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<f64>().ok();
    Some((next()? + next()?) / TICKS)
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

fn max_fds(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_understood() {
        let read = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap();
        assert!(resident_bytes(&read("status")).unwrap() > 1 << 20);
        assert!(max_fds(&read("limits")).unwrap() > 2);
        assert!(cpu_seconds(&read("stat")).is_some());
        assert_eq!(cpu_seconds("1 (a b) c) S 0 0 0 0 -1 0 0 0 0 0 150 50 0 0"), Some(2.0));
        assert_eq!(resident_bytes("VmRSS: much"), None);
    }
}
