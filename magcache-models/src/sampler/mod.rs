//! Flow-matching solvers: one file per method, all with the same signature.
//!
//! | name | diffusers class or Wan module | file |
//! |---|---|---|
//! | `unipc` | `UniPCMultistepScheduler` (flow prediction, bh2) | [`unipc`] |
//! | `euler` | `FlowMatchEulerDiscreteScheduler` | [`euler`] |
//! | `dpmpp` | `DPMSolverMultistepScheduler` (dpmsolver++, midpoint) | [`dpmpp`] |
//! | `wan-unipc` | Wan's `FlowUniPCMultistepScheduler` | [`unipc`] with Wan's sigmas |
//! | `wan-dpmpp` | Wan's `FlowDPMSolverMultistepScheduler` | [`dpmpp`] with Wan's sigmas |
//!
//! A [`Schedule`] is pure arithmetic (no tensors, no weights); a [`Sampler`] adds the solver's [`History`],
//! which it owns, so several generations can run interleaved. Both only need a [`SchedulerConfig`] and a
//! number of steps:
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use magcache_models::sampler::{Sampler, SamplerKind, SchedulerConfig};
//!
//! # fn main() -> Result<(), magcache_models::sampler::SamplerError> {
//! let config = SchedulerConfig::new(SamplerKind::UniPc, 3.0);
//! let mut sampler = Sampler::new(&config, 4)?;
//! let mut latents = Tensor::ones((1, 4), DType::F32, &Device::Cpu)?;
//! for i in 0..sampler.schedule().steps() {
//!     let velocity = (&latents * 0.5)?; // the model, told `sampler.timesteps()[i]`
//!     latents = sampler.step(i, &velocity, &latents)?;
//! }
//! assert!(sampler.step(4, &latents, &latents).is_err());
//! # Ok(())
//! # }
//! ```

pub mod config;
pub mod dpmpp;
mod error;
pub mod euler;
mod kind;
mod python_json;
pub mod schedule;
mod spacing;
pub mod unipc;

use candle_core::{DType, Tensor};
use magcache_core::{Branch, Phase, Trajectory};

pub use config::{FinalSigma, SchedulerConfig, Shift};
pub use error::SamplerError;
pub use kind::SamplerKind;
pub use schedule::Schedule;
pub use spacing::Request;

/// Result of the samplers.
pub type Result<T> = std::result::Result<T, SamplerError>;

/// The state of a multistep solver between steps: plain data, so that it can be stored and restored.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The last predictions of the clean sample (`x0`), newest last, at most `solver_order` of them, f32.
    pub predictions: Vec<Tensor>,
    /// UniPC: the (corrected) sample that the last predictor started from, f32.
    pub last_sample: Option<Tensor>,
    /// UniPC: order of the last predictor, which is the order of the next corrector.
    pub last_order: usize,
    /// The next step; `None` before the first, which may be any (image to image starts late).
    pub next: Option<usize>,
}

magcache_core::fields!(History { predictions, last_sample, last_order, next });

impl History {
    /// The prediction `back` steps before the newest; 0 is the newest.
    fn back(&self, back: usize) -> candle_core::Result<&Tensor> {
        let len = self.predictions.len();
        len.checked_sub(back + 1).and_then(|i| self.predictions.get(i)).ok_or_else(|| {
            candle_core::Error::Msg(format!("the history holds {len} predictions, not {}", back + 1))
        })
    }

    fn push(&mut self, prediction: Tensor, keep: usize) {
        self.predictions.push(prediction);
        let excess = self.predictions.len().saturating_sub(keep);
        self.predictions.drain(..excess);
    }
}

/// A schedule and the solver that runs it.
#[derive(Clone, Debug)]
pub struct Sampler {
    config: SchedulerConfig,
    schedule: Schedule,
    history: History,
}

impl Sampler {
    /// A sampler in its initial state. `request` is a number of steps, or a [`Request`] if a pipeline needs
    /// more.
    ///
    /// # Errors
    /// As [`Schedule::new`].
    pub fn new(config: &SchedulerConfig, request: impl Into<Request>) -> Result<Self> {
        let schedule = Schedule::new(config, request)?;
        Ok(Self { config: config.clone(), schedule, history: History::default() })
    }

    /// The solver.
    pub fn kind(&self) -> SamplerKind {
        self.config.kind
    }

    /// The schedule of this sampler.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The steps for one network, with both branches if the run is guided.
    pub fn trajectory(&self, guided: bool) -> Trajectory {
        let Schedule { sigmas, timesteps, .. } = &self.schedule;
        Trajectory {
            phases: vec![Phase::whole(timesteps.len())],
            sigmas: sigmas.iter().map(|s| f64::from(*s)).collect(),
            timesteps: timesteps.clone(),
            branches: if guided { vec![Branch::Cond, Branch::Uncond] } else { vec![Branch::Cond] },
            unguided: Vec::new(),
            guidance_end: None,
            flow_shift: match self.config.shift {
                Shift::Static(shift) => Some(shift),
                Shift::Dynamic { .. } => None,
            },
            boundary_ratio: None,
            multistep: self.config.kind != SamplerKind::Euler,
            first: 0,
            clips: 1,
        }
    }

    /// Noise levels, `steps + 1` of them; the last is where the trajectory ends.
    pub fn sigmas(&self) -> &[f32] {
        &self.schedule.sigmas
    }

    /// The model's timestep at each step, in training steps.
    pub fn timesteps(&self) -> &[f64] {
        &self.schedule.timesteps
    }

    /// The solver's state, for storing it.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Restores the stored state of a sampler with the same configuration and request.
    pub fn restore(&mut self, history: History) {
        self.history = history;
    }

    /// The sample after step `i`.
    ///
    /// `model_output` is the model's velocity for `sample` at `timesteps()[i]`; both have the same shape, of
    /// any rank. The arithmetic is f32 whatever the dtype, and the result has the dtype of `sample`. The
    /// first step may be any; after it, steps come in order. A step that fails leaves the history unchanged.
    ///
    /// # Errors
    /// [`SamplerError::OutOfOrder`], [`SamplerError::Shape`], or a failed tensor operation.
    pub fn step(&mut self, i: usize, model_output: &Tensor, sample: &Tensor) -> Result<Tensor> {
        let steps = self.schedule.steps();
        if self.history.next.is_some_and(|next| next != i) || i >= steps {
            return Err(SamplerError::OutOfOrder { got: i, expected: self.history.next.unwrap_or(0), steps });
        }
        if model_output.dims() != sample.dims() {
            let (output, sample) = (model_output.dims().to_vec(), sample.dims().to_vec());
            return Err(SamplerError::Shape { output, sample });
        }
        let output = model_output.to_dtype(DType::F32)?;
        let x = sample.to_dtype(DType::F32)?;
        let solver = match self.config.kind {
            SamplerKind::Euler => euler::step,
            SamplerKind::UniPc | SamplerKind::WanUniPc => unipc::step,
            SamplerKind::DpmPp | SamplerKind::WanDpmPp => dpmpp::step,
        };
        let mut history = self.history.clone();
        let next = solver(&self.config, &self.schedule, i, &output, &x, &mut history)?;
        history.next = Some(i + 1);
        self.history = history;
        Ok(next.to_dtype(sample.dtype())?)
    }
}
