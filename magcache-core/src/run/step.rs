//! The position of a pass in the trajectory. The sampler supplies it; nothing counts calls.

use std::{fmt, ops::Range, str::FromStr};

use crate::snapshot::{self, Field, Reader, SnapshotError, Writer};

/// One guidance pass of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Branch {
    /// The prompt.
    Cond,
    /// The negative prompt of classifier-free guidance.
    Uncond,
    /// Every guidance branch as rows of one batch: they share one decision.
    Batched,
    /// A further branch (reference image, perturbed attention, ...).
    Other(u8),
}

impl fmt::Display for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cond => f.pad("cond"),
            Self::Uncond => f.pad("uncond"),
            Self::Batched => f.pad("batched"),
            Self::Other(n) => f.pad(&format!("other{n}")),
        }
    }
}

/// A word that names no branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a branch is `cond`, `uncond`, `batched` or `otherN`")]
pub struct UnknownBranch;

impl FromStr for Branch {
    type Err = UnknownBranch;

    fn from_str(word: &str) -> Result<Self, UnknownBranch> {
        match word {
            "cond" => Ok(Self::Cond),
            "uncond" => Ok(Self::Uncond),
            "batched" => Ok(Self::Batched),
            _ => word
                .strip_prefix("other")
                .and_then(|n| n.parse().ok())
                .map_or(Err(UnknownBranch), |n| Ok(Self::Other(n))),
        }
    }
}

snapshot::words! { Branch: "a guidance branch" }

/// Which network of a model runs; 0 for a model with one network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Expert(pub u8);

impl Field for Expert {
    fn write(&self, to: &mut Writer<'_>) {
        self.0.write(to);
    }

    fn read(from: &Reader<'_>) -> Result<Self, SnapshotError> {
        u8::read(from).map(Self)
    }
}

/// The steps that one expert owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phase {
    /// The expert.
    pub expert: Expert,
    /// Its steps, `first..end`, in indices of the whole trajectory.
    pub steps: Range<usize>,
}

impl Phase {
    /// The single phase of a model with one network.
    pub fn whole(steps: usize) -> Self {
        Self { expert: Expert(0), steps: 0..steps }
    }
}

/// One step of the trajectory.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The clip, from 0, in a run that makes several one after the other, each from its own noise. Nothing is
    /// reused across clips.
    pub clip: usize,
    /// Index in the trajectory of its clip, from 0. Image-to-image runs that start late keep their true
    /// index.
    pub index: usize,
    /// Number of steps of that trajectory.
    pub total: usize,
    /// The timestep given to the model, in training steps (0 to 1000).
    pub timestep: f64,
    /// Noise level in 0..=1.
    pub sigma: f64,
    /// Noise level of the next step, 0 after the last one.
    pub next_sigma: f64,
    /// 1 for the second evaluation of a two-stage solver (Heun), otherwise 0.
    pub eval: u8,
    /// The network that runs.
    pub expert: Expert,
    /// The steps that `expert` owns.
    pub phase: Range<usize>,
}

crate::fields!(Step { clip, index, total, timestep, sigma, next_sigma, eval, expert, phase });

impl Step {
    /// A step of a trajectory with one expert and one evaluation; timestep and sigma are linear in the index,
    /// and 0 past the end.
    pub fn plain(index: usize, total: usize) -> Self {
        let at = |index: usize| (1.0 - index as f64 / total.max(1) as f64).max(0.0);
        let (sigma, next_sigma) = (at(index), at(index + 1));
        let (clip, timestep, eval) = (0, 1000.0 * sigma, 0);
        Self { clip, index, total, timestep, sigma, next_sigma, eval, expert: Expert(0), phase: 0..total }
    }

    /// Its place among the steps of all clips, from 0: what a log names.
    pub fn place(&self) -> usize {
        self.clip * self.total + self.index
    }

    /// A step of a trajectory with several phases, otherwise as [`Step::plain`].
    pub fn in_phases(index: usize, total: usize, phases: &[Phase]) -> Self {
        let plain = Self::plain(index, total);
        match phases.iter().find(|p| p.steps.contains(&index)) {
            Some(p) => Self { expert: p.expert, phase: p.steps.clone(), ..plain },
            None => plain,
        }
    }
}
