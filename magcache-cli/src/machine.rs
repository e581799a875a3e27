//! The machine that a run was measured on.

use serde::Serialize;

/// The machine and this program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Machine {
    /// The processor's name, if the system reports it (Linux).
    pub(crate) cpu: Option<String>,
    pub(crate) cores: usize,
    pub(crate) threads: usize,
    /// `linux x86_64`.
    pub(crate) system: String,
    /// Where the network ran.
    pub(crate) device: String,
    pub(crate) version: &'static str,
}

impl Machine {
    /// This machine; `device` is the one that was requested.
    pub(crate) fn this(device: &str) -> Self {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self {
            cpu: model_name(&info),
            cores: num_cpus::get_physical(),
            threads: candle_core::utils::get_num_threads(),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            device: device.to_owned(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// Bytes that can be used without swapping, if the system says (Linux); at most what a container may have.
pub(crate) fn available_memory() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    let file =
        |name: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?.trim().parse().ok();
    let limit: Option<u64> = file("memory.max");
    let left = limit.map(|limit| limit.saturating_sub(file("memory.current").unwrap_or(0)));
    Some((kilobytes * 1024).min(left.unwrap_or(u64::MAX)))
}

/// The line `model name : ...` of `/proc/cpuinfo`.
fn model_name(info: &str) -> Option<String> {
    let line = info.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(line.trim_start().strip_prefix(':')?.trim().to_owned()).filter(|name| !name.is_empty())
}

/// The peak memory of the process so far, in bytes (`VmHWM` on Linux): of everything it did, including
/// weights and all lanes. `None` on other systems.
pub(crate) fn peak_resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    high_water_mark(&status)
}

/// Parses the line `VmHWM:   123456 kB` into bytes.
fn high_water_mark(status: &str) -> Option<usize> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_the_first_ones_model_name() {
        let info = "processor\t: 0\nmodel name\t: A Chip @ 2.0GHz\nprocessor\t: 1\nmodel name\t: B\n";
        assert_eq!(model_name(info).as_deref(), Some("A Chip @ 2.0GHz"));
        assert_eq!(model_name("Hardware\t: board\n"), None);
    }

    #[test]
    fn the_peak_is_the_line_of_the_high_water_mark() {
        let status = "Name:\tx\nVmPeak:\t  900 kB\nVmHWM:\t  123 kB\nVmRSS:\t  100 kB\n";
        assert_eq!(high_water_mark(status), Some(123 * 1024));
        assert_eq!(high_water_mark("VmHWM:\t many\n"), None);
        assert_eq!(high_water_mark(""), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_one() {
        // Memory that is never accessed is never allocated.
        let held = std::hint::black_box(vec![1u8; 64 << 20]);
        let peak = peak_resident().expect("Linux says so");
        assert!(peak >= held.len() * 9 / 10, "{peak} bytes, {} are held", held.len());
    }
}
