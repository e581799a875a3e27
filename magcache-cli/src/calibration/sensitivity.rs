//! SenCache's sensitivities, measured during a dense run.

use anyhow::Result;
use candle_core::Tensor;
use magcache_core::{
    Branch, Pass, Step,
    calibrate::{Around, LastPrediction, Response},
};
use magcache_models::pipeline::{Denoiser, Generation, PipelineError};

/// The state of a run before a step.
#[derive(Debug)]
pub(super) struct Before {
    step: Step,
    /// The same step with the timestep of the next one: 0 after the last step.
    later: Step,
    latents: Tensor,
}

impl Before {
    pub(super) fn of(run: &Generation) -> Self {
        let at = run.next();
        let step = run.trajectory().step(at);
        let next = (at + 1 < run.trajectory().len()).then(|| run.trajectory().step(at + 1));
        let (timestep, sigma) = next.map_or((0.0, 0.0), |next| (next.timestep, next.sigma));
        Self { later: Step { timestep, sigma, ..step.clone() }, step, latents: run.latents().clone() }
    }

    /// Measures how the prediction responds, with two more conditional passes: at the latents that `run`
    /// reached after the step, and at the next timestep. `kept` belongs to the hooks of the run.
    pub(super) fn response(
        self,
        run: &Generation,
        denoiser: &dyn Denoiser,
        kept: &LastPrediction,
        stop: &dyn Fn() -> bool,
    ) -> Result<Response> {
        let Some(here) = kept.take() else {
            return Err(PipelineError::request("a run without a conditional branch", "give it one").into());
        };
        let predict = |latents: &Tensor, step: &Step| -> Result<Tensor> {
            if stop() {
                let steps = run.trajectory().len();
                return Err(PipelineError::Interrupted { step: self.step.index, steps }.into());
            }
            Ok(denoiser.predict(latents, step, Branch::Cond, &mut Pass::off())?)
        };
        let moved = predict(run.latents(), &self.step)?;
        let later = predict(&self.latents, &self.later)?;
        let around = Around {
            here: &here,
            moved: &moved,
            later: &later,
            latents: [&self.latents, run.latents()],
            next_timestep: self.later.timestep,
        };
        Ok(Response::of(&self.step, around)?)
    }
}
