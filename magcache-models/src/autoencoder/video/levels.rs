//! The levels of encoder and decoder, derived from the configuration.

use super::config::VideoVaeConfig;
use crate::nn::Fold;

/// Channels of a level of the encoder and the step after it, if there is one.
#[derive(Clone, Copy, Debug)]
pub(super) struct DownLevel {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// Whether the step halves the frames too.
    pub(super) step: Option<bool>,
    /// The shortcut, in Wan 2.2.
    pub(super) shortcut: Option<Fold>,
}

/// Channels of a level of the decoder and the step after it, if there is one.
#[derive(Clone, Copy, Debug)]
pub(super) struct UpLevel {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) step: Option<UpStep>,
    /// The shortcut, in Wan 2.2, if there is a step.
    pub(super) shortcut: Option<Fold>,
}

/// A step to the next resolution.
#[derive(Clone, Copy, Debug)]
pub(super) struct UpStep {
    /// Whether it doubles the frames too.
    pub(super) time: bool,
    /// Channels after it.
    pub(super) outputs: usize,
}

impl VideoVaeConfig {
    /// From the highest resolution to the lowest.
    pub(super) fn down_levels(&self) -> Vec<DownLevel> {
        let mut inputs = self.base_dim;
        let mut level = |(i, multiple): (usize, &usize)| {
            let outputs = self.base_dim * multiple;
            let step = self.temperal_downsample.get(i).copied();
            let fold = fold(inputs, outputs, step);
            let level = DownLevel { inputs, outputs, step, shortcut: self.is_residual.then_some(fold) };
            inputs = outputs;
            level
        };
        self.dim_mult.iter().enumerate().map(&mut level).collect()
    }

    /// From the lowest resolution to the highest.
    pub(super) fn up_levels(&self) -> Vec<UpLevel> {
        let base = self.decoder_dim();
        let mut inputs = base * self.dim_mult.last().copied().unwrap_or(1);
        let mut level = |(i, multiple): (usize, &usize)| {
            let outputs = base * multiple;
            // The steps up are in the reverse order of the configuration's steps down; the last level has
            // none.
            let time = self.temperal_downsample.iter().rev().nth(i).copied();
            let step = time
                .map(|time| UpStep { time, outputs: if self.is_residual { outputs } else { outputs / 2 } });
            let around = self.is_residual && step.is_some();
            let shortcut = around.then(|| fold(inputs, outputs, time));
            let level = UpLevel { inputs, outputs, step, shortcut };
            inputs = step.map_or(outputs, |step| step.outputs);
            level
        };
        self.dim_mult.iter().rev().enumerate().map(&mut level).collect()
    }
}

fn fold(inputs: usize, outputs: usize, step: Option<bool>) -> Fold {
    let (time, space) = (1 + usize::from(step == Some(true)), 1 + usize::from(step.is_some()));
    Fold { inputs, outputs, time, space }
}
