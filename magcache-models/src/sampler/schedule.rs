//! Noise levels of a trajectory, and which network runs where: arithmetic without tensors.

use magcache_core::{Expert, Phase, Step};

use super::{FinalSigma, Request, Result, SamplerError, SamplerKind, SchedulerConfig, Shift, spacing};

/// Noise levels and timesteps of one trajectory.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Noise levels, strictly decreasing (the last two are equal with [`FinalSigma::Last`]), one more than
    /// steps; f32 because the reference rounds them, and `1 - sigma` near 1 depends on it.
    pub sigmas: Vec<f32>,
    /// The model's timesteps, one per step, in training steps: integers for UniPC and DPM-Solver++
    /// (truncated), fractions for Euler.
    pub timesteps: Vec<f64>,
    num_train_timesteps: usize,
}

impl Schedule {
    /// The schedule of a solver; `request` is a number of steps or a [`Request`].
    ///
    /// # Errors
    /// A setting out of range, a missing `mu`, sigmas that do not fit, or steps and shift so extreme that two
    /// sigmas round to the same f32.
    pub fn new(config: &SchedulerConfig, request: impl Into<Request>) -> Result<Self> {
        let request = request.into();
        config.validate()?;
        check(config, &request)?;
        let (mut sigmas, timesteps) = spacing::levels(config, &request)?;
        sigmas.push(0.0);
        if let Some(index) = sigmas
            .windows(2)
            .position(|pair| pair[0].partial_cmp(&pair[1]) != Some(std::cmp::Ordering::Greater))
        {
            let (from, to) = (sigmas[index], sigmas[index + 1]);
            let shift = config.shift.value(request.mu);
            return Err(SamplerError::NotDecreasing { index, from, to, shift });
        }
        if config.final_sigma == FinalSigma::Last && request.steps > 0 {
            sigmas[request.steps] = sigmas[request.steps - 1];
        }
        Ok(Self { sigmas, timesteps, num_train_timesteps: config.num_train_timesteps })
    }

    /// Sampling steps.
    pub fn steps(&self) -> usize {
        self.timesteps.len()
    }

    /// The steps of each network. Without a `boundary_ratio` one network runs them all. With one, as in
    /// Wan2.2, expert 0 (`transformer`, high noise) owns the steps whose timestep is at least
    /// `boundary_ratio * num_train_timesteps` and expert 1 (`transformer_2`, low noise) the others; a network
    /// without steps is omitted.
    ///
    /// The comparison uses the model's timesteps, so the truncation of UniPC matters, and the same ratio
    /// gives different phases with different solvers.
    ///
    /// # Errors
    /// [`SamplerError::Boundary`] if the ratio is not between 0 and 1.
    pub fn experts(&self, boundary_ratio: Option<f64>) -> Result<Vec<Phase>> {
        let steps = self.steps();
        let Some(ratio) = boundary_ratio else { return Ok(vec![Phase::whole(steps)]) };
        if !(ratio > 0.0 && ratio < 1.0) {
            return Err(SamplerError::Boundary { got: ratio });
        }
        let boundary = ratio * self.num_train_timesteps as f64;
        let high = self.timesteps.partition_point(|&t| t >= boundary);
        let phases =
            [Phase { expert: Expert(0), steps: 0..high }, Phase { expert: Expert(1), steps: high..steps }];
        Ok(phases.into_iter().filter(|phase| !phase.steps.is_empty()).collect())
    }

    /// Every step, with its expert, as passed to the caches.
    ///
    /// # Errors
    /// As [`Schedule::experts`].
    pub fn trajectory(&self, boundary_ratio: Option<f64>) -> Result<Vec<Step>> {
        let phases = self.experts(boundary_ratio)?;
        let levels = self.timesteps.iter().zip(&self.sigmas).enumerate();
        let step = |(index, (&timestep, &sigma)): (usize, (&f64, &f32))| Step {
            timestep,
            sigma: f64::from(sigma),
            next_sigma: self.sigmas.get(index + 1).map_or(0.0, |sigma| f64::from(*sigma)),
            ..Step::in_phases(index, self.steps(), &phases)
        };
        Ok(levels.map(step).collect())
    }

    /// The noise level before step `i`; solvers only request existing ones.
    pub(super) fn sigma(&self, i: usize) -> candle_core::Result<f32> {
        let missing = || {
            candle_core::Error::Msg(format!("the schedule has {} sigmas, not {}", self.sigmas.len(), i + 1))
        };
        self.sigmas.get(i).copied().ok_or_else(missing)
    }
}

fn check(config: &SchedulerConfig, request: &Request) -> Result<()> {
    config.check_steps(request.steps)?;
    if let Some(mu) = request.mu
        && !(mu.is_finite()
            && matches!(config.shift, Shift::Dynamic { exponential } if exponential || mu > 0.0))
    {
        let expected = match config.shift {
            Shift::Static(_) => "no mu with a static shift",
            Shift::Dynamic { exponential: true } => "a finite number",
            Shift::Dynamic { exponential: false } => "a number above 0",
        };
        return Err(SamplerError::Invalid { key: "mu", got: mu.to_string(), expected: expected.to_owned() });
    }
    let Some(sigmas) = &request.sigmas else { return Ok(()) };
    if config.kind != SamplerKind::Euler {
        return Err(SamplerError::ExplicitSigmas { kind: config.kind, got: sigmas.len() });
    }
    if sigmas.len() != request.steps {
        return Err(SamplerError::SigmaCount { got: sigmas.len(), steps: request.steps });
    }
    match sigmas.iter().find(|sigma| !(**sigma > 0.0 && **sigma <= 1.0)) {
        Some(bad) => {
            let expected = "a number above 0 and at most 1".to_owned();
            Err(SamplerError::Invalid { key: "sigmas", got: bad.to_string(), expected })
        }
        None => Ok(()),
    }
}
