//! Where a network is kept and computed.

use clap::{Args as ClapArgs, ValueEnum};
use magcache_models::checkpoint::Ops;

/// Where a network is kept and computed.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Machine")]
pub(crate) struct Placement {
    /// How weights are kept in memory; arithmetic on a CPU is f32
    #[arg(long, value_enum, default_value_t)]
    pub(crate) dtype: Dtype,
    /// cpu or cuda:N
    #[arg(long, default_value = "cpu")]
    pub(crate) device: String,
    /// As the whole program is told: see [`Command::compute_with`](super::Command::compute_with).
    #[arg(skip)]
    pub(crate) ops: Ops,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dtype {
    /// As stored; small models in f32
    #[default]
    Auto,
    F32,
    F16,
    Bf16,
}

impl Dtype {
    /// As it is typed.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}
