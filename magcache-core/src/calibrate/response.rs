//! How far a prediction moves: the raw data of SenCache's sensitivities.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Result, Tensor};

use super::Recording;
use crate::{
    Expert, Step,
    metrics::{self, Pooled},
    profile::{Provenance, Sensitivity},
};

/// Response of the prediction at one step of a run to a change of its latents and of its timestep.
///
/// Source: the finite differences of vita-epfl/SenCache (`Wan2.1/sensitivity_calculation.py`, commit
/// 4bf419b). Differences: the states are those of a sampled run, not noised videos, so no data set is needed;
/// the response to the timestep is a root mean square, which does not depend on the size of the latents.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Response {
    /// The network.
    pub expert: Expert,
    /// The step of the run.
    pub step: usize,
    /// The timestep given to the model, 0 to 1000.
    pub timestep: f64,
    /// `‖f(x′, t) − f(x, t)‖ / ‖x′ − x‖`.
    pub latent: f64,
    /// `rms(f(x, t′) − f(x, t)) / |t′ − t|`.
    pub per_timestep: f64,
}

/// Predictions around a state `(x, t)` of a run, whose next state is `(x′, t′)`; all of one shape.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    /// `f(x, t)`.
    pub here: &'a Tensor,
    /// `f(x′, t)`.
    pub moved: &'a Tensor,
    /// `f(x, t′)`.
    pub later: &'a Tensor,
    /// `x` and `x′`.
    pub latents: [&'a Tensor; 2],
    /// `t′`.
    pub next_timestep: f64,
}

impl Response {
    /// The response at `step`, whose timestep is `t`. For a batch, that of the row with the largest response.
    ///
    /// # Errors
    /// Tensors of different shapes.
    pub fn of(step: &Step, around: Around<'_>) -> Result<Self> {
        let Around { here, moved, later, latents: [x, next], next_timestep } = around;
        let apart = |a: &Tensor, b: &Tensor| metrics::rms_difference(a, b);
        let ratios = apart(moved, here)?.into_iter().zip(apart(next, x)?).map(|(f, x)| f / x);
        Ok(Self {
            expert: step.expert,
            step: step.index,
            timestep: step.timestep,
            latent: metrics::worst(ratios),
            per_timestep: metrics::worst(apart(later, here)?) / (next_timestep - step.timestep).abs(),
        })
    }
}

impl Recording {
    /// SenCache's sensitivities: the means over all runs at every step, one table per expert.
    pub fn sensitivities(&self) -> Vec<Sensitivity> {
        let experts: BTreeSet<Expert> = self.responses.iter().map(|row| row.expert).collect();
        let several = experts.len() > 1;
        let of = |expert: Expert| {
            let mut steps: BTreeMap<usize, (f64, Pooled, Pooled)> = BTreeMap::new();
            for row in self.responses.iter().filter(|row| row.expert == expert) {
                let (timestep, latent, per_timestep) = steps.entry(row.step).or_default();
                *timestep = row.timestep;
                *latent = latent.and(row.latent);
                *per_timestep = per_timestep.and(row.per_timestep);
            }
            Sensitivity {
                variant: None,
                expert: several.then_some(expert.0),
                timesteps: steps.values().map(|(timestep, ..)| *timestep).collect(),
                latent: steps.values().map(|(_, latent, _)| latent.mean).collect(),
                timestep: steps.values().map(|(.., per_timestep)| per_timestep.mean).collect(),
                thresholds: None,
                source: Provenance::default(),
            }
        };
        experts.into_iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn t(values: [f32; 2]) -> Tensor {
        Tensor::new(&[values], &Device::Cpu).expect("a shape")
    }

    #[test]
    fn a_response_is_the_textbook_value() {
        let step = Step { timestep: 800.0, ..Step::plain(3, 10) };
        let around = Around {
            here: &t([1.0, 1.0]),
            moved: &t([4.0, 5.0]),
            later: &t([1.0, 3.0]),
            latents: [&t([0.0, 0.0]), &t([6.0, 8.0])],
            next_timestep: 700.0,
        };
        let response = Response::of(&step, around).expect("shapes are equal");
        // 5 over 10; the root of (0 + 4) / 2 over 100.
        assert!((response.latent - 0.5).abs() < 1e-12);
        assert!((response.per_timestep - 2f64.sqrt() / 100.0).abs() < 1e-12);
        assert_eq!((response.step, response.timestep), (3, 800.0));
        let wrong = Around { later: &Tensor::new(&[1f32], &Device::Cpu).expect("a shape"), ..around };
        assert!(Response::of(&step, wrong).is_err());
    }

    #[test]
    fn each_expert_has_the_means_of_its_steps_in_the_order_of_a_run() {
        let row = |expert, step, latent| Response {
            expert: Expert(expert),
            step,
            timestep: 1000.0 - step as f64,
            latent,
            per_timestep: latent / 10.0,
        };
        let mut recording = Recording {
            responses: vec![row(1, 2, 5.0), row(0, 1, 2.0), row(0, 0, 1.0), row(0, 1, 4.0)],
            ..Recording::default()
        };
        let both = recording.sensitivities();
        assert_eq!(both.iter().map(|s| s.expert).collect::<Vec<_>>(), [Some(0), Some(1)]);
        assert_eq!(both[0].timesteps, [1000.0, 999.0]);
        assert_eq!(both[0].latent, [1.0, 3.0]);
        assert!((both[0].timestep[1] - 0.3).abs() < 1e-12);
        recording.responses.remove(0);
        assert_eq!(recording.sensitivities()[0].expert, None);
        assert!(Recording::default().sensitivities().is_empty());
    }
}
