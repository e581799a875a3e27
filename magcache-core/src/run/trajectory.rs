//! The steps of one run, as supplied by the sampler.

use crate::{Branch, Expert, Phase, Step};

/// Timesteps, noise levels, experts and branches of a run: everything that decisions without tensors depend
/// on.
#[derive(Clone, Debug, PartialEq)]
pub struct Trajectory {
    /// The timestep given to the model at each step (0 to 1000).
    pub timesteps: Vec<f64>,
    /// Noise level at each step, and the one after the last step.
    pub sigmas: Vec<f64>,
    /// Which expert owns which steps.
    pub phases: Vec<Phase>,
    /// The guidance branches of a step, in the order in which they run.
    pub branches: Vec<Branch>,
    /// Experts that run without guidance: their steps have only the first branch.
    pub unguided: Vec<Expert>,
    /// The step from which on only the first branch runs, if guidance ends before the run does.
    pub guidance_end: Option<usize>,
    /// The shift of the schedule, if it has one.
    pub flow_shift: Option<f64>,
    /// The fraction of the schedule below which the second expert runs, if there is one.
    pub boundary_ratio: Option<f64>,
    /// Whether the solver builds on the predictions of earlier steps (UniPC), so that what stands in for one
    /// of them enters later ones too.
    pub multistep: bool,
    /// The first step that runs: above 0 for image to image.
    pub first: usize,
    /// Number of clips that run along it, one after the other: 1 but for videos that are made in parts.
    pub clips: usize,
}

/// How many of `steps` steps a shifted linear schedule spends above `boundary_ratio`, that is, in the first
/// expert: `sigma = shift·u / (1 + (shift − 1)·u)` with `u` from 1 down in equal steps. A solver that
/// truncates or shifts its timesteps can differ by one step; the phases of a [`Trajectory`] are exact.
pub fn steps_above(boundary_ratio: f64, flow_shift: f64, steps: usize) -> usize {
    let sigma = |i: usize| {
        let u = 1.0 - i as f64 / steps.max(1) as f64;
        flow_shift * u / (1.0 + (flow_shift - 1.0) * u)
    };
    (0..steps).take_while(|i| sigma(*i) >= boundary_ratio).count()
}

impl Trajectory {
    /// Steps linear in the index and one expert, for tests and for models without a schedule.
    pub fn plain(steps: usize, branches: &[Branch]) -> Self {
        let steps_of = || (0..steps).map(|i| Step::plain(i, steps));
        Self {
            timesteps: steps_of().map(|s| s.timestep).collect(),
            sigmas: steps_of().map(|s| s.sigma).chain([0.0]).collect(),
            phases: vec![Phase::whole(steps)],
            branches: branches.to_vec(),
            unguided: Vec::new(),
            guidance_end: None,
            flow_shift: None,
            boundary_ratio: None,
            multistep: false,
            first: 0,
            clips: 1,
        }
    }

    /// A run along these noise levels (1 to 0), one for each step and the one after the last step; timesteps
    /// are 1000 times as large. A step runs `branches`, in this order.
    ///
    /// ```
    /// use magcache_core::{Branch, Expert, Trajectory};
    ///
    /// let run = Trajectory::from_sigmas(&[1.0, 0.95, 0.8, 0.5, 0.0], &[Branch::Cond, Branch::Uncond]);
    /// assert_eq!((run.len(), run.step(2).timestep), (4, 800.0));
    /// let pair = run.switch_at(0.875);
    /// assert_eq!((pair.step(1).expert, pair.step(2).expert), (Expert(0), Expert(1)));
    /// ```
    pub fn from_sigmas(sigmas: &[f64], branches: &[Branch]) -> Self {
        let steps = sigmas.len().saturating_sub(1);
        Self {
            timesteps: sigmas.iter().take(steps).map(|sigma| 1000.0 * sigma).collect(),
            sigmas: sigmas.to_vec(),
            ..Self::plain(steps, branches)
        }
    }

    /// The same with two experts: the first while the noise level is at least `boundary`, the second below.
    #[must_use]
    pub fn switch_at(self, boundary: f64) -> Self {
        let (steps, sigmas) = (self.len(), &self.sigmas);
        let first = sigmas.iter().take(steps).take_while(|sigma| **sigma >= boundary).count();
        let phase = |(expert, steps): (u8, std::ops::Range<usize>)| Phase { expert: Expert(expert), steps };
        let phases = [(0, 0..first), (1, first..steps)].into_iter().filter(|(_, steps)| !steps.is_empty());
        let phases = phases.map(phase).collect();
        Self { phases, boundary_ratio: Some(boundary), ..self }
    }

    /// The same with several phases.
    #[must_use]
    pub fn with_phases(self, phases: Vec<Phase>) -> Self {
        Self { phases, ..self }
    }

    /// Number of steps of the whole schedule, which every clip runs along.
    pub fn len(&self) -> usize {
        self.timesteps.len()
    }

    /// Whether there are no steps.
    pub fn is_empty(&self) -> bool {
        self.timesteps.is_empty()
    }

    /// Number of steps that run in each clip: what budgets and schedules count.
    pub fn steps_of_clip(&self) -> usize {
        self.len().saturating_sub(self.first)
    }

    /// Where the last step of the last clip ends, counted as [`Step::place`].
    pub fn end(&self) -> usize {
        self.clips * self.len()
    }

    /// The first evaluation of the step at `place` among the steps of all clips. Past the last step there is
    /// nothing to run: that step has no noise left, a pass at it is an error, and
    /// [decisions](crate::decisions) compute.
    pub fn step(&self, place: usize) -> Step {
        let clip = (place / self.len().max(1)).min(self.clips.saturating_sub(1));
        let index = place - clip * self.len();
        let plain = Step::in_phases(index, self.len(), &self.phases);
        let at = |v: &[f64], index: usize, or: f64| v.get(index).copied().unwrap_or(or);
        Step {
            clip,
            timestep: at(&self.timesteps, index, plain.timestep),
            sigma: at(&self.sigmas, index, plain.sigma),
            next_sigma: at(&self.sigmas, index + 1, plain.next_sigma),
            ..plain
        }
    }

    /// The branches that run at `step`, in order.
    pub fn branches_at(&self, step: &Step) -> &[Branch] {
        let ended = self.guidance_end.is_some_and(|end| step.index >= end);
        let alone = ended || self.unguided.contains(&step.expert);
        if alone { self.branches.get(..1).unwrap_or_default() } else { &self.branches }
    }

    /// Number of passes of the network in the whole run.
    pub fn passes(&self) -> usize {
        self.steps().map(|step| self.branches_at(&step).len()).sum()
    }

    /// The steps that run, in order, of every clip.
    pub fn steps(&self) -> impl Iterator<Item = Step> {
        let clip = |clip: usize| clip * self.len() + self.first..(clip + 1) * self.len();
        (0..self.clips).flat_map(clip).map(|place| self.step(place))
    }

    /// The same run with one clip.
    #[must_use]
    pub fn one_clip(&self) -> Self {
        Self { clips: 1, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_boundaries_of_wan22() {
        assert_eq!(steps_above(0.875, 12.0, 40), 26);
        assert_eq!(steps_above(0.9, 5.0, 40), 15);
    }

    #[test]
    fn past_the_end_there_is_no_noise() {
        let run = Trajectory { clips: 2, ..Trajectory::from_sigmas(&[1.0, 0.5, 0.0], &[Branch::Cond]) };
        for (past, place) in (run.end()..run.end() + 3).enumerate() {
            let step = run.step(place);
            assert_eq!((step.clip, step.index, step.sigma, step.timestep), (1, 2 + past, 0.0, 0.0));
        }
    }

    #[test]
    fn an_expert_without_guidance_has_one_branch() {
        let phases = vec![Phase { expert: Expert(0), steps: 0..3 }, Phase { expert: Expert(1), steps: 3..8 }];
        let run = Trajectory::plain(8, &[Branch::Cond, Branch::Uncond]).with_phases(phases);
        let run = Trajectory { unguided: vec![Expert(1)], ..run };
        assert_eq!(run.branches_at(&run.step(2)), [Branch::Cond, Branch::Uncond]);
        assert_eq!(run.branches_at(&run.step(3)), [Branch::Cond]);
        assert_eq!(run.passes(), 3 * 2 + 5);
        let run = Trajectory { guidance_end: Some(2), ..run };
        assert_eq!(run.branches_at(&run.step(1)), [Branch::Cond, Branch::Uncond]);
        assert_eq!(run.branches_at(&run.step(2)), [Branch::Cond]);
        assert_eq!(run.passes(), 2 * 2 + 6);
        assert!(Trajectory { branches: Vec::new(), ..run }.steps().count() == 8);
    }
}
