//! The machine that a run was measured on.

pub(crate) mod memory;

use serde::Serialize;

/// The machine and this program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Machine {
    /// The processor's name, if the system reports it (Linux).
    pub(crate) cpu: Option<String>,
    pub(crate) cores: usize,
    /// Number of compute threads.
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

/// The line `model name : ...` of `/proc/cpuinfo`.
fn model_name(info: &str) -> Option<String> {
    let line = info.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(line.trim_start().strip_prefix(':')?.trim().to_owned()).filter(|name| !name.is_empty())
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
}
