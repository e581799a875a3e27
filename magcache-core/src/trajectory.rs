//! The steps of one run, as the sampler gives them.

use crate::{Branch, Phase, Step};

/// Timesteps, noise levels, experts and branches of a run: what decisions that need no tensor depend on.
#[derive(Clone, Debug, PartialEq)]
pub struct Trajectory {
    /// What the model is told at each step (0 to 1000).
    pub timesteps: Vec<f64>,
    /// Noise level at each step, and the last one behind it.
    pub sigmas: Vec<f64>,
    /// Who owns which steps.
    pub phases: Vec<Phase>,
    /// The guidance branches of each phase's steps, in the order in which they run.
    pub branches: Vec<Branch>,
    /// The schedule's shift, where it has one.
    pub flow_shift: Option<f64>,
    /// The part of the schedule below which the second expert runs, where there is one.
    pub boundary_ratio: Option<f64>,
    /// The first step that runs: above 0 for image to image.
    pub first: usize,
}

impl Trajectory {
    /// Steps linear in the index, one expert: for tests and for models without a schedule.
    pub fn plain(steps: usize, branches: &[Branch]) -> Self {
        let steps_of = || (0..steps).map(|i| Step::plain(i, steps));
        Self {
            timesteps: steps_of().map(|s| s.timestep).collect(),
            sigmas: steps_of().map(|s| s.sigma).chain([0.0]).collect(),
            phases: vec![Phase::whole(steps)],
            branches: branches.to_vec(),
            flow_shift: None,
            boundary_ratio: None,
            first: 0,
        }
    }

    /// The same with several phases.
    #[must_use]
    pub fn with_phases(self, phases: Vec<Phase>) -> Self {
        Self { phases, ..self }
    }

    /// Steps of the whole schedule.
    pub fn len(&self) -> usize {
        self.timesteps.len()
    }

    /// True without steps.
    pub fn is_empty(&self) -> bool {
        self.timesteps.is_empty()
    }

    /// The `index`-th step, first evaluation.
    pub fn step(&self, index: usize) -> Step {
        let plain = Step::in_phases(index, self.len(), &self.phases);
        let at = |v: &[f64], or: f64| v.get(index).copied().unwrap_or(or);
        Step { timestep: at(&self.timesteps, plain.timestep), sigma: at(&self.sigmas, plain.sigma), ..plain }
    }

    /// The steps that run, in order.
    pub fn steps(&self) -> impl Iterator<Item = Step> {
        (self.first..self.len()).map(|i| self.step(i))
    }
}
