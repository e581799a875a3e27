//! From dense runs to a profile: MagCache's curves, TeaCache's fits and SenCache's sensitivities, with the
//! raw numbers needed to merge several calibrations.
//!
//! A [`Recorder`] watches any number of dense runs of any model that runs its blocks through a
//! [`Pass`](crate::Pass); its [`Recording`] holds counts, means and rows, never the model's tensors.
//! Recordings can be joined: the result equals one recording over all runs, up to rounding.
//!
//! Source: the calibration of MagCache (Zehong-Ma/MagCache, commit df81cb1: `norm_ratio`, `norm_std`,
//! `cos_dis` over tokens) and of TeaCache (ali-vilab/TeaCache, commit 7c10efc: distances of the output as a
//! function of those of the signal, degree 4). Tokens of all prompts and seeds are pooled.

mod polynomial;
mod recorder;
mod rehearsal;
mod response;
mod reuse;
mod table;

use std::collections::{BTreeMap, BTreeSet};

pub use polynomial::Polynomial;
pub use recorder::{LastPrediction, Recorder};
pub use rehearsal::Rehearsal;
pub use response::{Around, Response};
pub use table::RecordingError;

use crate::{
    Branch, Expert, ModelMeta, Signal, Step, Trajectory, Warmup,
    metrics::Pooled,
    planner::ReuseErrors,
    profile::{Curve, Fit, Profile, Provenance},
};

/// Degree of TeaCache's polynomials.
const DEGREE: usize = 4;

/// How the residual of a step compares with that of the previous step, over the tokens of all runs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Magnitudes {
    /// `|now| / |before|` per token; empty for a step without a predecessor.
    pub ratio: Pooled,
    /// `1 − cos(now, before)` per token.
    pub cosine_distance: Pooled,
}

/// Relative L1 distances between a step and the previous one of the same run.
#[derive(Clone, Debug, PartialEq)]
pub struct Distances {
    /// The network.
    pub expert: Expert,
    /// The guidance branch.
    pub branch: Branch,
    /// The later of the two steps.
    pub step: usize,
    /// Distance of each signal that the model exposes.
    pub signals: BTreeMap<Signal, f64>,
    /// Distance of the residual of the blocks.
    pub residual: f64,
    /// Distance of the hidden states after the blocks.
    pub hidden_states: f64,
}

/// Measurements of dense runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recording {
    /// Steps of each run.
    pub steps: usize,
    /// By branch, one entry per step.
    pub magnitudes: BTreeMap<Branch, Vec<Magnitudes>>,
    /// In the order in which they were recorded.
    pub distances: Vec<Distances>,
    /// Errors that reuse would have caused, for each rehearsed run.
    pub reuse: Vec<ReuseErrors>,
    /// Responses of the predictions, if they were measured.
    pub responses: Vec<Response>,
}

impl Recording {
    /// Adds one pass.
    pub(crate) fn add(
        &mut self,
        step: &Step,
        branch: Branch,
        magnitudes: Magnitudes,
        distances: Option<Distances>,
    ) {
        self.steps = self.steps.max(step.total);
        let of_branch = self.magnitudes.entry(branch).or_default();
        of_branch.resize(self.steps, Magnitudes::default());
        if let Some(own) = of_branch.get_mut(step.index) {
            own.join(magnitudes);
        }
        self.distances.extend(distances);
    }

    /// Adds the runs of another recording.
    ///
    /// # Errors
    /// [`RecordingError::Steps`] for runs with a different number of steps.
    pub fn join(&mut self, other: Self) -> Result<(), RecordingError> {
        if self.steps == 0 {
            *self = other;
            return Ok(());
        }
        if other.steps != self.steps && other.steps != 0 {
            return Err(RecordingError::Steps { got: other.steps, expected: self.steps });
        }
        for (branch, magnitudes) in other.magnitudes {
            let own =
                self.magnitudes.entry(branch).or_insert_with(|| vec![Magnitudes::default(); self.steps]);
            own.iter_mut().zip(magnitudes).for_each(|(own, other)| own.join(other));
        }
        self.distances.extend(other.distances);
        self.reuse.extend(other.reuse);
        self.responses.extend(other.responses);
        Ok(())
    }

    /// MagCache's curve over the whole run. The first step of each expert has no predecessor: ratio 1,
    /// deviation 0, distance 0.
    pub fn curve(&self) -> Curve {
        let by_branch = |of: fn(&Magnitudes) -> f64| -> BTreeMap<String, Vec<f64>> {
            let values = |(branch, all): (&Branch, &Vec<Magnitudes>)| {
                (branch.to_string(), all.iter().map(of).collect())
            };
            self.magnitudes.iter().map(values).collect()
        };
        Curve {
            variant: None,
            expert: None,
            steps: self.steps,
            dialect: None,
            flow_shift: None,
            boundary_ratio: None,
            ratios: by_branch(|m| if m.ratio.count == 0 { 1.0 } else { m.ratio.mean }),
            std: by_branch(|m| m.ratio.std()),
            cosine_distance: by_branch(|m| m.cosine_distance.mean),
            recommended: Vec::new(),
            source: Provenance::default(),
        }
    }

    /// TeaCache's fit from the distance of `signal` to that of the hidden states after the blocks, over all
    /// branches of one expert or of all; `None` if the rows do not determine it.
    pub fn fit(&self, signal: Signal, expert: Option<Expert>) -> Option<Fit> {
        let own = self.distances.iter().filter(|row| expert.is_none_or(|expert| row.expert == expert));
        let points: Vec<(f64, f64)> =
            own.filter_map(|row| Some((*row.signals.get(&signal)?, row.hidden_states))).collect();
        let Polynomial { coefficients, range, residual } = Polynomial::fit(&points, DEGREE)?;
        Some(Fit {
            variant: None,
            expert: expert.map(|expert| expert.0),
            signal,
            coefficients,
            warmup: Warmup::Steps(1),
            last_steps: 1,
            thresholds: Vec::new(),
            fitted_range: Some(range),
            residual: Some(residual),
            source: Provenance::default(),
        })
    }

    /// The fits of a model for `signal`. With several experts, one per expert whose rows determine it; with a
    /// single expert, one fit that names no expert.
    pub fn fits(&self, signal: Signal) -> Vec<Fit> {
        let experts = self.experts();
        if experts.len() < 2 {
            return self.fit(signal, None).into_iter().collect();
        }
        experts.into_iter().filter_map(|expert| self.fit(signal, Some(expert))).collect()
    }

    /// The experts that were recorded.
    pub fn experts(&self) -> BTreeSet<Expert> {
        self.distances.iter().map(|row| row.expert).collect()
    }

    /// The signals that were recorded.
    pub fn signals(&self) -> BTreeSet<Signal> {
        self.distances.iter().flat_map(|row| row.signals.keys().copied()).collect()
    }
}

impl Profile {
    /// What dense runs of a model along this trajectory have shown: MagCache's curve, and TeaCache's fits for
    /// every signal that was recorded, the first signal's as the default.
    ///
    /// ```
    /// # use candle_core::{Device, DType, Result, Tensor};
    /// # use magcache_core::{Branch, CachePlan, ModelMeta, Pass, StackMeta, Trajectory};
    /// # use magcache_core::{calibrate::Recorder, profile::Profile};
    /// # const META: ModelMeta = ModelMeta::of("mine", "me").stacks(&[StackMeta::image("blocks", 3)]).meta();
    /// # fn forward(x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
    /// #     pass.blocks(&[0.1, 0.2, 0.3], x.clone(), |weight, x| x + (x.tanh()? * *weight)?)
    /// # }
    /// # let noise = Tensor::randn(0f32, 1., (1, 4, 8), &Device::Cpu)?;
    /// # let run = Trajectory::plain(20, &[Branch::Cond]);
    /// let recorder = Recorder::new(&META);
    /// let (mut session, mut latents) = (recorder.registry().session(), noise.clone());
    /// for step in run.steps() {
    ///     let velocity = forward(&latents, &mut session.pass(&step, Branch::Cond))?;
    ///     latents = (latents - (velocity * 0.05)?)?;
    /// }
    /// let profile = Profile::of(&META, &run, &recorder.recording());
    /// std::fs::write(std::env::temp_dir().join("mine.toml"), profile.to_toml()?)?;
    /// # assert_eq!(profile.curves[0].ratios["cond"].len(), 20);
    /// # assert_eq!(Profile::parse(&profile.to_toml()?, "mine")?, profile);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Later runs use it as it is, with `plan.build_with(&META, Some(&run), &[profile])`.
    pub fn of(model: &ModelMeta, run: &Trajectory, recording: &Recording) -> Self {
        let curve =
            Curve { flow_shift: run.flow_shift, boundary_ratio: run.boundary_ratio, ..recording.curve() };
        let mut fits: Vec<Fit> = Vec::new();
        for signal in recording.signals() {
            let variant = (!fits.is_empty()).then(|| signal.as_str().to_owned());
            let own = recording.fits(signal).into_iter();
            fits.extend(own.map(|fit| Fit { variant: variant.clone(), ..fit }));
        }
        Self {
            name: model.name.to_string(),
            model: Some(model.name.to_string()),
            curves: vec![curve],
            fits,
            ..Self::default()
        }
    }
}

impl Magnitudes {
    fn join(&mut self, other: Self) {
        self.ratio = self.ratio.join(other.ratio);
        self.cosine_distance = self.cosine_distance.join(other.cosine_distance);
    }
}
