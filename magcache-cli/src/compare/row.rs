//! A line of the table, over all seeds and repetitions.

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
    job::Job,
    lanes::{Finished, Noted},
};

/// What a lane is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// What all others are measured against.
    Dense,
    /// A configuration.
    Config,
    /// No cache and fewer steps: what a configuration that computes as much has to beat.
    Baseline,
}

/// The lanes of one round.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) seed: u64,
    pub(crate) lanes: Vec<Finished>,
}

/// What a lane did with one seed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct BySeed {
    pub(crate) seed: u64,
    pub(crate) computed: usize,
    pub(crate) skipped: usize,
    /// In dB, infinite where nothing differs.
    pub(crate) psnr: Option<f64>,
    pub(crate) ssim: Option<f64>,
}

/// How a configuration does against the dense run of as many steps as it computed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Against {
    /// Name of the baseline.
    pub(crate) name: String,
    /// PSNR of the configuration less that of the baseline, in dB, seed by seed.
    pub(crate) psnr_gain: Option<Estimate>,
}

/// What was found out about a lane.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) role: Role,
    /// The configurations that a baseline stands against.
    pub(crate) of: Vec<String>,
    /// Sampling steps.
    pub(crate) steps: usize,
    /// Passes in which every block ran, with the first seed.
    pub(crate) computed: usize,
    /// Passes in which something was skipped, with the first seed.
    pub(crate) skipped: usize,
    pub(crate) ceiling: Option<f64>,
    /// Of network and autoencoder, round by round against the dense lane of the round.
    pub(crate) speedup: Spread,
    /// Of the network alone.
    pub(crate) transformer_speedup: Spread,
    /// Seconds of network and autoencoder.
    pub(crate) seconds: Spread,
    pub(crate) psnr: Option<Estimate>,
    pub(crate) ssim: Option<Estimate>,
    pub(crate) against: Option<Against>,
    pub(crate) by_seed: Vec<BySeed>,
    pub(crate) cache_bytes: usize,
    /// `‖x − dense‖₂ / ‖dense‖₂` of the latents after each step, with the first seed.
    pub(crate) divergence: Vec<f64>,
    /// The skip pattern by branch, with the first seed.
    pub(crate) strips: Vec<(Branch, String)>,
    /// What each strategy noted, with the first seed; a strategy has its name where there are several.
    pub(crate) noted: Vec<(String, Vec<Noted>)>,
    /// What reproduces the lane, as TOML.
    pub(crate) config: String,
    /// Name of the file that shows it.
    pub(crate) file: String,
    /// The first and the last frame that it shows.
    pub(crate) stills: Vec<RgbImage>,
}

impl Row {
    /// Lane `at` of the rounds, which is `contender` and whose pictures are `shown`.
    pub(crate) fn of(
        job: &Job,
        contender: &Contender,
        role: Role,
        shown: &Path,
        rounds: &[Measured],
        at: usize,
    ) -> Result<Option<Self>> {
        let lanes: Vec<(u64, &Finished)> =
            rounds.iter().filter_map(|round| Some((round.seed, round.lanes.get(at)?))).collect();
        let Some((_, first)) = lanes.first().copied() else { return Ok(None) };
        let mut by_seed: Vec<BySeed> = Vec::new();
        for (seed, lane) in &lanes {
            // A repetition does the same again.
            if by_seed.iter().all(|known| known.seed != *seed) {
                by_seed.push(BySeed::of(*seed, lane));
            }
        }
        let spread = |of: fn(&Finished) -> f64| Spread::of(lanes.iter().map(|(_, lane)| of(lane)));
        Ok(Some(Self {
            name: contender.name.clone(),
            role,
            of: Vec::new(),
            steps: contender.steps,
            computed: first.summary.computed(),
            skipped: first.summary.skipped(),
            ceiling: first.summary.ceiling(),
            speedup: spread(|lane| lane.speedup),
            transformer_speedup: spread(|lane| lane.transformer_speedup),
            seconds: spread(|lane| lane.seconds),
            psnr: Estimate::of(by_seed.iter().filter_map(|s| s.psnr)),
            ssim: Estimate::of(by_seed.iter().filter_map(|s| s.ssim)),
            against: None,
            by_seed,
            cache_bytes: lanes.iter().map(|(_, lane)| lane.cache_bytes).max().unwrap_or(0),
            divergence: first.divergence.clone(),
            strips: first.strips.clone(),
            noted: named(&first.noted, &contender.strategies()),
            config: contender.to_toml(job, shown)?,
            file: shown.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            stills: first.stills.clone(),
        }))
    }

    /// True where a measured speed-up is above what skipping can gain: only the noise of the measurement goes there.
    pub(crate) fn is_noise(&self, speedup: &Spread) -> bool {
        self.role == Role::Config && self.ceiling.is_some_and(|ceiling| speedup.median > ceiling)
    }

    /// Passes in which every block ran, the mean over the seeds.
    pub(crate) fn mean_computed(&self) -> f64 {
        self.by_seed.iter().map(|s| s.computed as f64).sum::<f64>() / self.by_seed.len() as f64
    }

    /// Passes of the network.
    pub(crate) fn passes(&self) -> usize {
        self.computed + self.skipped
    }
}

impl BySeed {
    fn of(seed: u64, lane: &Finished) -> Self {
        Self {
            seed,
            computed: lane.summary.computed(),
            skipped: lane.summary.skipped(),
            psnr: lane.quality.map(|(psnr, _)| psnr),
            ssim: lane.quality.map(|(_, ssim)| ssim),
        }
    }
}

/// Notes by branch; with several strategies also by the strategy's name.
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
