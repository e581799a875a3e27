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
    let left = groups(&own).into_iter().filter_map(|(group, files)| files.left(&group));
    Some(left.fold(kilobytes * 1024, u64::min))
}

/// How a version of control groups calls what a group may use of memory.
#[derive(Debug, PartialEq)]
struct MemoryFiles {
    limit: &'static str,
    used: &'static str,
    /// The line of `memory.stat` with the pages of files that are given back when memory is short.
    droppable: &'static str,
}

const VERSION_1: MemoryFiles = MemoryFiles {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    droppable: "total_inactive_file",
};
const VERSION_2: MemoryFiles =
    MemoryFiles { limit: "memory.max", used: "memory.current", droppable: "inactive_file" };

impl MemoryFiles {
    /// Bytes that a group has left, if it has a limit.
    fn left(&self, group: &Path) -> Option<u64> {
        let number = |file: &str| std::fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
        let limit = number(self.limit)?;
        let lines = std::fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        let droppable = lines.lines().find_map(|line| line.strip_prefix(self.droppable)?.trim().parse().ok());
        let used = number(self.used).unwrap_or(0).saturating_sub(droppable.unwrap_or(0));
        Some(limit.saturating_sub(used))
    }
}

/// The folders of the process's control groups and of those that they are in, from `/proc/self/cgroup`: each
/// may have a limit. In a container the outermost is the container's own.
fn groups(own: &str) -> Vec<(PathBuf, &'static MemoryFiles)> {
    let all = |path: &str, root: &str, files: &'static MemoryFiles| -> Vec<_> {
        let path = Path::new(path.trim_start_matches('/'));
        path.ancestors().map(|group| (Path::new(root).join(group), files)).collect()
    };
    let of = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        match controllers {
            "" => Some(all(path, "/sys/fs/cgroup", &VERSION_2)),
            own if own.split(',').any(|one| one == "memory") => {
                Some(all(path, "/sys/fs/cgroup/memory", &VERSION_1))
            }
            _ => None,
        }
    };
    own.lines().filter_map(of).flatten().collect()
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
        let folders = |own: &str| {
            groups(own)
                .iter()
                .map(|(path, files)| (path.display().to_string(), files.limit))
                .collect::<Vec<_>>()
        };
        let expected = |rows: &[(&str, &'static str)]| {
            rows.iter().map(|(path, limit)| ((*path).to_owned(), *limit)).collect::<Vec<_>>()
        };
        let nested = [
            ("/sys/fs/cgroup/user.slice/run.scope", "memory.max"),
            ("/sys/fs/cgroup/user.slice", "memory.max"),
            ("/sys/fs/cgroup/", "memory.max"),
        ];
        assert_eq!(folders("1:cpu:/x\n0::/user.slice/run.scope\n"), expected(&nested));
        assert_eq!(folders("0::/\n"), expected(&nested[2..]));
        let first = [
            ("/sys/fs/cgroup/memory/docker/a:b", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup/memory/docker", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup/memory/", "memory.limit_in_bytes"),
        ];
        assert_eq!(folders("4:hugetlb,memory:/docker/a:b\n"), expected(&first));
        assert_eq!(folders(""), []);
    }

    #[test]
    fn pages_of_files_that_can_be_dropped_are_not_in_use() {
        let group = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| std::fs::write(group.path().join(file), text).unwrap();
        assert_eq!(VERSION_2.left(group.path()), None, "no limit");
        write("memory.max", "1000\n");
        write("memory.current", "900\n");
        assert_eq!(VERSION_2.left(group.path()), Some(100));
        write("memory.stat", "anon 200\ninactive_file 650\nactive_file 50\n");
        assert_eq!(VERSION_2.left(group.path()), Some(750));
        write("memory.max", "max\n");
        assert_eq!(VERSION_2.left(group.path()), None);
        write("memory.limit_in_bytes", "500\n");
        write("memory.usage_in_bytes", "800\n");
        write("memory.stat", "inactive_file 1\ntotal_inactive_file 400\n");
        assert_eq!(VERSION_1.left(group.path()), Some(100));
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
