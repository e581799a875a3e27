//! A row of the table, over all seeds and repetitions.

use std::{collections::BTreeMap, path::Path};

use anyhow::Result;
use image::RgbImage;
use magcache_core::{Branch, state::HookId};
use serde::Serialize;

use super::{
    contender::Contender,
    estimate::{Estimate, Spread},
};
use crate::{
    job::{Job, strategies},
    lanes::{Finished, Noted},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// The reference for all other lanes.
    Dense,
    Config,
    /// No cache but fewer steps: what a configuration with the same amount of compute has to beat.
    Baseline,
}

/// The seed of a round, and its lanes.
pub(crate) type Round = (u64, Vec<Finished>);

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct BySeed {
    pub(crate) seed: u64,
    pub(crate) computed: usize,
    pub(crate) skipped: usize,
    /// In dB; infinite if nothing differs.
    pub(crate) psnr: Option<f64>,
    pub(crate) ssim: Option<f64>,
    /// Mean over the frames.
    pub(crate) ssimulacra2: Option<f64>,
    /// 5th percentile over the frames.
    pub(crate) ssimulacra2_worst: Option<f64>,
    /// Mean over the frames, if it is measured.
    pub(crate) lpips: Option<f64>,
    /// 95th percentile over the frames.
    pub(crate) lpips_worst: Option<f64>,
}

/// A configuration compared with the uncached run of as many steps as it computed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Against {
    pub(crate) name: String,
    /// PSNR of the configuration minus that of the baseline, in dB, seed by seed.
    pub(crate) psnr_gain: Option<Estimate>,
}

#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) role: Role,
    /// For a baseline: the configurations it belongs to.
    pub(crate) of: Vec<String>,
    pub(crate) steps: usize,
    /// Passes in which every block ran, with the first seed.
    pub(crate) computed: usize,
    /// Passes in which something was skipped, with the first seed.
    pub(crate) skipped: usize,
    pub(crate) ceiling: Option<f64>,
    /// Of network and autoencoder, in each round relative to the dense lane of the round.
    pub(crate) speedup: Spread,
    pub(crate) transformer_speedup: Spread,
    /// Seconds of network and autoencoder.
    pub(crate) seconds: Spread,
    pub(crate) psnr: Option<Estimate>,
    pub(crate) ssim: Option<Estimate>,
    /// SSIMULACRA2: mean and 5th percentile over the frames.
    pub(crate) ssimulacra2: [Option<Estimate>; 2],
    /// LPIPS, if it is measured: mean and 95th percentile over the frames.
    pub(crate) lpips: [Option<Estimate>; 2],
    pub(crate) against: Option<Against>,
    pub(crate) by_seed: Vec<BySeed>,
    pub(crate) cache_bytes: usize,
    /// `‖x − dense‖₂ / ‖dense‖₂` of the latents after each step, with the first seed.
    pub(crate) divergence: Vec<f64>,
    /// The skip pattern by branch, with the first seed.
    pub(crate) strips: Vec<(Branch, String)>,
    /// What each strategy noted, with the first seed; labelled by strategy if there are several.
    pub(crate) noted: Vec<(String, Vec<Noted>)>,
    /// The configuration that reproduces the lane, as TOML.
    pub(crate) config: String,
    pub(crate) file: String,
    /// The first and the last frame of that file.
    pub(crate) stills: Vec<RgbImage>,
}

impl Row {
    /// The row of lane `at` of the rounds, which is `contender` and whose pictures are `shown`.
    pub(crate) fn of(
        job: &Job,
        contender: &Contender,
        role: Role,
        shown: &Path,
        rounds: &[Round],
        at: usize,
    ) -> Result<Option<Self>> {
        let lanes: Vec<(u64, &Finished)> =
            rounds.iter().filter_map(|(seed, lanes)| Some((*seed, lanes.get(at)?))).collect();
        let Some((_, first)) = lanes.first().copied() else { return Ok(None) };
        let mut by_seed: Vec<BySeed> = Vec::new();
        for (seed, lane) in &lanes {
            // Repetitions give the same result.
            if by_seed.iter().all(|known| known.seed != *seed) {
                by_seed.push(BySeed::of(*seed, lane));
            }
        }
        let spread = |of: fn(&Finished) -> f64| Spread::of(lanes.iter().map(|(_, lane)| of(lane)));
        let estimate = |of: fn(&BySeed) -> Option<f64>| Estimate::of(by_seed.iter().filter_map(of));
        Ok(Some(Self {
            name: contender.name.clone(),
            role,
            of: Vec::new(),
            steps: contender.entry.steps,
            computed: first.summary.computed(),
            skipped: first.summary.skipped(),
            ceiling: first.summary.ceiling(),
            speedup: spread(|lane| lane.speedup),
            transformer_speedup: spread(|lane| lane.transformer_speedup),
            seconds: spread(|lane| lane.seconds),
            psnr: estimate(|s| s.psnr),
            ssim: estimate(|s| s.ssim),
            ssimulacra2: [estimate(|s| s.ssimulacra2), estimate(|s| s.ssimulacra2_worst)],
            lpips: [estimate(|s| s.lpips), estimate(|s| s.lpips_worst)],
            against: None,
            by_seed,
            cache_bytes: lanes.iter().map(|(_, lane)| lane.cache_bytes).max().unwrap_or(0),
            divergence: first.divergence.clone(),
            strips: first.strips.clone(),
            noted: named(&first.noted, &strategies(&contender.cache)),
            config: contender.to_toml(job, shown)?,
            file: shown.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            stills: first.stills.clone(),
        }))
    }

    /// True if the measured speed-up exceeds what skipping can gain: the excess can only be noise.
    pub(crate) fn is_noise(&self, speedup: &Spread) -> bool {
        self.role == Role::Config && self.ceiling.is_some_and(|ceiling| speedup.median > ceiling)
    }

    /// Passes in which every block ran, averaged over the seeds.
    pub(crate) fn mean_computed(&self) -> f64 {
        self.by_seed.iter().map(|s| s.computed as f64).sum::<f64>() / self.by_seed.len() as f64
    }

    pub(crate) fn passes(&self) -> usize {
        self.computed + self.skipped
    }
}

impl BySeed {
    fn of(seed: u64, lane: &Finished) -> Self {
        let ssimulacra2 = lane.likeness.and_then(|likeness| likeness.ssimulacra2);
        let lpips = lane.likeness.and_then(|likeness| likeness.lpips);
        Self {
            seed,
            computed: lane.summary.computed(),
            skipped: lane.summary.skipped(),
            psnr: lane.likeness.map(|likeness| likeness.psnr),
            ssim: lane.likeness.map(|likeness| likeness.ssim),
            ssimulacra2: ssimulacra2.map(|scores| scores.mean),
            ssimulacra2_worst: ssimulacra2.map(|scores| scores.worst),
            lpips: lpips.map(|scores| scores.mean),
            lpips_worst: lpips.map(|scores| scores.worst),
        }
    }
}

/// Notes by branch, and by strategy if there are several.
fn named(noted: &BTreeMap<(HookId, Branch), Vec<Noted>>, names: &[String]) -> Vec<(String, Vec<Noted>)> {
    let one = |((hook, branch), notes): (&(HookId, Branch), &Vec<Noted>)| {
        let name = match names.get(usize::from(hook.0)).filter(|_| names.len() > 1) {
            Some(name) => format!("{name}, {branch}"),
            None => branch.to_string(),
        };
        (name, notes.clone())
    };
    noted.iter().map(one).collect()
}
