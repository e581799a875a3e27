//! `MeanCache`'s forecast: the velocity of a skipped step from the mean velocity of the steps before it.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};
use magcache_core::{
    Step, Streams,
    forecast::{Entered, Forecast},
    state::{StoragePolicy, Stored},
};

/// The forecast of a schedule, around a whole forward: latents `z` in, velocity `v` out.
///
/// With `a` the step `K` before step `i`, or as far back as there is one:
/// `u = (z_i − z_a) / (σ_i − σ_a)`, `J = (v_a − u) / (σ_i − σ_a)`, `v = v_{i−1} − J·(σ_{i+1} − σ_i)`, in f32.
/// The history has every step, also those that were replaced.
#[derive(Debug)]
pub struct MeanVelocity {
    /// `K` of every step; 0 for those that the schedule computes.
    orders: Arc<[usize]>,
    /// Oldest first: the last step, and before it as many as the largest order looks back.
    history: Vec<Past>,
}

/// One step of the history.
#[derive(Debug)]
struct Past {
    step: usize,
    sigma: f64,
    latents: Stored,
    velocity: Stored,
}

magcache_core::fields!(MeanVelocity { history } given { orders });
magcache_core::fields!(Past { step, sigma, latents, velocity });

impl MeanVelocity {
    /// A forecast without history. `orders` has `K` of every step of the run, 0 where it is computed.
    pub fn new(orders: Arc<[usize]>) -> Self {
        Self { orders, history: Vec::new() }
    }

    /// Adds a step. One that is run again replaces what it left.
    fn remember(&mut self, at: &Entered<'_>, y: &Streams, storage: &StoragePolicy) -> Result<()> {
        let step = at.step.index;
        let (latents, velocity) = (Stored::new(at.x, storage)?, Stored::new(y, storage)?);
        self.history.retain(|past| past.step < step);
        self.history.push(Past { step, sigma: at.step.sigma, latents, velocity });
        // If this step is run again, as many steps as an order looks back must lie before it.
        let reach = self.orders.iter().copied().max().unwrap_or(1).max(1);
        self.history.drain(..self.history.len().saturating_sub(reach + 1));
        Ok(())
    }

    /// The steps before this one.
    fn before(&self, step: &Step) -> &[Past] {
        &self.history[..self.history.partition_point(|past| past.step < step.index)]
    }
}

/// The tensor in f32.
fn full(stored: &Stored) -> Result<Tensor> {
    stored.load()?.into_image()?.to_dtype(DType::F32)
}

impl Forecast for MeanVelocity {
    fn observe(&mut self, at: &Entered<'_>, y: &Streams, storage: &StoragePolicy) -> Result<()> {
        self.remember(at, y, storage)
    }

    fn predict(&self, at: &Entered<'_>) -> Result<Option<Streams>> {
        let past = self.before(at.step);
        let order = self.orders.get(at.step.index).copied().unwrap_or(0).clamp(1, past.len().max(1));
        let (Some(last), Some(anchor)) =
            (past.last(), past.len().checked_sub(order).and_then(|i| past.get(i)))
        else {
            return Ok(None);
        };
        let z = at.x.image()?;
        let (sigma, next) = (at.step.sigma as f32, at.step.next_sigma as f32);
        let distance = sigma - anchor.sigma as f32;
        if distance == 0.0 {
            return Ok(None);
        }
        let mean =
            z.to_dtype(DType::F32)?.sub(&full(&anchor.latents)?)?.affine(1.0 / f64::from(distance), 0.0)?;
        let change = full(&anchor.velocity)?.sub(&mean)?.affine(1.0 / f64::from(distance), 0.0)?;
        let velocity = full(&last.velocity)?.sub(&change.affine(f64::from(next - sigma), 0.0)?)?;
        Ok(Some(Streams::Image(velocity.to_dtype(z.dtype())?)))
    }

    fn stood_in(&mut self, at: &Entered<'_>, y: &Streams, storage: &StoragePolicy) -> Result<()> {
        self.remember(at, y, storage)
    }

    fn hears_stand_ins(&self) -> bool {
        true
    }
}
