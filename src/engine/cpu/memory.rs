//! How much memory weights may take.

use std::fs;

/// Share of the available memory that weights may take; the rest is for activations, caches and others.
const SHARE_FOR_WEIGHTS: f64 = 0.8;

/// Bytes that are available; as many as can be addressed where nothing says how many.
pub(super) fn available_or_all() -> u64 {
    available().unwrap_or(isize::MAX as u64)
}

/// Bytes of weights that may be kept in memory: most of what is available, or all where nothing says
/// how much that is.
pub(super) fn for_weights() -> u64 {
    available().map_or(u64::MAX, |n_bytes| {
        (n_bytes as f64 * SHARE_FOR_WEIGHTS) as u64
    })
}

/// Available memory as Linux states it, the limit of the control group included.
fn available() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let machine = available_kib(&info)?.checked_mul(1024)?;
    let of_group = || -> Option<u64> {
        let read = |name| fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok();
        let limit: u64 = read("memory.max")?.trim().parse().ok()?;
        let used: u64 = read("memory.current")?.trim().parse().ok()?;
        Some(limit.saturating_sub(used))
    };
    Some(of_group().map_or(machine, |group| group.min(machine)))
}

fn available_kib(info: &str) -> Option<u64> {
    let line = info
        .lines()
        .find(|line| line.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_available_memory_is_read() {
        let info = "MemTotal:       100 kB\nMemAvailable:   64 kB\n";
        assert_eq!(available_kib(info), Some(64));
        assert_eq!(available_kib("MemTotal: 1 kB"), None);
    }
}
