//! Where and how the networks of cases compute.

use candle_core::{DType, Device};
use magcache_models::checkpoint::{CheckpointError, Folder, Ops, WeightDtype, Weights};

/// The groups of cases that run on another device than the CPU and in other types than f32; all others are
/// about numbers that hosts compute with, or about files.
pub(super) const NETWORKS: [&str; 3] = ["transformers", "text_encoders", "vaes"];

/// Those whose networks compute in the type of their weights; autoencoders compute in f32.
pub(super) const IN_HALF: [&str; 2] = ["transformers", "text_encoders"];

/// Where networks are and what they compute with.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The operations of their layers.
    pub ops: Ops,
    /// The device.
    pub device: Device,
    /// `None` as the case has its weights, in f32: outputs are within the recorded tolerances, and all that
    /// was recorded is compared. Otherwise weights are converted to half precision, and outputs are compared.
    pub half: Option<Half>,
}

/// Half precision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Half {
    /// The type of weights and, on a GPU, of hidden states.
    pub dtype: DType,
    /// The largest error of an output, relative to its largest value.
    pub tolerance: f64,
}

impl Setting {
    /// What cases of a group run with.
    pub(super) fn of_group(&self, group: &str) -> Self {
        if NETWORKS.contains(&group) { self.clone() } else { self.ops.into() }
    }

    /// The tensors of a component, as this setting keeps them.
    pub(super) fn weights(&self, folder: &Folder) -> Result<Weights, CheckpointError> {
        Weights::open(folder, &self.device, self.dtype())
    }

    pub(super) fn dtype(&self) -> WeightDtype {
        self.half.map_or(WeightDtype::Keep, |half| WeightDtype::Cast(half.dtype))
    }

    /// The part of the largest value that an error may be, whatever was recorded.
    pub(super) fn slack(&self) -> f64 {
        self.half.map_or(0.0, |half| half.tolerance)
    }
}

impl From<Ops> for Setting {
    /// On the CPU, in f32.
    fn from(ops: Ops) -> Self {
        Self { ops, device: Device::Cpu, half: None }
    }
}
