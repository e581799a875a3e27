//! The machine that a run was measured on.

use std::path::{Path, PathBuf};

use candle_core::Device;
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

/// Bytes that a device has free, if it says; of a CPU those that can be used without swapping (Linux), at
/// most what the process's own group or container has left.
pub(crate) fn free_memory(device: &Device) -> Option<u64> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        let (free, _) = device.cuda_stream().context().mem_get_info().ok()?;
        return Some(free as u64);
    }
    if device.is_cpu() { available_memory() } else { None }
}

fn available_memory() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let left = groups(&own).into_iter().filter_map(|group| {
        let file = |name: &str| std::fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
        Some(file("memory.max")?.saturating_sub(file("memory.current").unwrap_or(0)))
    });
    Some(left.fold(kilobytes * 1024, u64::min))
}

/// The folders of the process's control group and of those that it is in, from `/proc/self/cgroup`: each may
/// have a limit. In a container the outermost is the container's own.
fn groups(own: &str) -> Vec<PathBuf> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    Path::new(path).ancestors().map(|group| Path::new("/sys/fs/cgroup").join(group)).collect()
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
    fn every_group_around_the_process_may_limit_it() {
        let folders =
            |own: &str| groups(own).iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        let nested = folders("1:cpu:/x\n0::/user.slice/run.scope\n");
        let inner = ["/sys/fs/cgroup/user.slice/run.scope", "/sys/fs/cgroup/user.slice", "/sys/fs/cgroup/"];
        assert_eq!(nested, inner);
        assert_eq!(folders("0::/\n"), ["/sys/fs/cgroup/"]);
        assert_eq!(folders(""), ["/sys/fs/cgroup/"]);
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
