//! The checks of a device.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};
use serde::Serialize;

use super::Writing;

#[derive(Debug, ClapArgs)]
pub(crate) struct Selftest {
    /// cpu or cuda:N
    #[arg(long, default_value = "cpu")]
    pub(crate) device: String,
    /// Folder for selftest.json and selftest.html [default: an unused name]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Small shapes, few repetitions and reference cases with networks alone
    #[arg(long)]
    pub(crate) quick: bool,
    /// Only these groups of checks
    #[arg(long, value_enum, value_name = "GROUP,GROUP", value_delimiter = ',')]
    pub(crate) only: Vec<Group>,
    /// Folders of reference cases, as `verify` takes them [default: tests/fixtures/golden, where it is]
    #[arg(long, value_name = "DIR")]
    pub(crate) cases: Vec<PathBuf>,
    /// Seconds that one measurement may take on a CPU; what would take longer is measured on fewer tokens
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    pub(crate) seconds: f64,
    #[command(flatten)]
    pub(crate) writing: Writing,
}

/// A group of checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Group {
    /// Reference cases in f32, bf16 and f16
    Golden,
    /// Attention over many tokens against the exact one
    Attention,
    /// Each fused operation against its plain composition
    Operations,
    /// Pictures of the embedded models against those of the CPU
    Pictures,
    /// Two runs on two threads against one after the other
    Sessions,
    /// Blocks from disk and residuals on the host against both on the device
    Copies,
    /// What does not fit is refused, and a failed allocation loses nothing
    Memory,
    /// Times of blocks and parts against the limits of the device
    Timings,
}

impl Group {
    /// As it is typed.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}
