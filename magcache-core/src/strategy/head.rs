//! The inputs of a decision.

use std::fmt::Debug;

use candle_core::{Result, Tensor, bail};

use super::History;
use crate::{
    Signal, Streams,
    chain::Probe,
    metrics::{self, Reducer},
};

/// What a strategy may look at before it decides.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// The input of the range.
    pub input: &'a Streams,
    /// The base of the forecast: the output of the front blocks (the input if the window has no front), or
    /// with [`Base::Leader`](super::Base::Leader) the conditional branch's output.
    pub fronted: &'a Streams,
    /// The history of the slot.
    pub history: History,
    pub(crate) probe: Option<Probe<'a>>,
    pub(crate) reducer: Option<&'a Reducer>,
}

impl Head<'_> {
    /// Computes a signal of the model.
    ///
    /// Errors: the model does not expose it.
    pub fn signal(&self, signal: Signal) -> Result<Tensor> {
        ask(self.probe, signal, self.input)
    }

    /// The residual of the front blocks on the denoised stream, `[batch, tokens, channels]`.
    pub fn front_residual(&self) -> Result<Tensor> {
        self.fronted.image()?.sub(&self.input.image()?)
    }

    /// The residual of the front blocks on all streams, `[batch, tokens of all, channels]`.
    pub fn front_residual_of_all(&self) -> Result<Tensor> {
        self.fronted.sequence()?.sub(&self.input.sequence()?)
    }

    /// The residual of the front blocks and its [`metrics::relative_l1`] to `before`, reduced over ranks, in
    /// one sweep.
    pub fn front_residual_and_change(&self, before: &Tensor) -> Result<(Tensor, f64)> {
        let (fronted, input) = (self.fronted.image()?, self.input.image()?);
        let (now, change) = metrics::residual_and_relative_l1(&fronted, &input, before)?;
        Ok((now, self.reduce(change)?))
    }

    /// [`metrics::relative_l1`], reduced over ranks.
    pub fn relative_l1(&self, now: &Tensor, before: &Tensor) -> Result<f64> {
        self.reduce(metrics::relative_l1(now, before)?)
    }

    /// [`metrics::relative_l2`], reduced over ranks.
    pub fn relative_l2(&self, now: &Tensor, before: &Tensor) -> Result<f64> {
        self.reduce(metrics::relative_l2(now, before)?)
    }

    /// Reduces a metric of the strategy's own over ranks.
    pub fn reduce(&self, metric: f64) -> Result<f64> {
        self.reducer.map_or(Ok(metric), |reduce| reduce(metric))
    }
}

impl Debug for Head<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Head").field("history", &self.history).finish_non_exhaustive()
    }
}

/// Calls a probe that may be missing.
fn ask(probe: Option<Probe<'_>>, signal: Signal, x: &Streams) -> Result<Tensor> {
    match probe {
        Some(probe) => probe(signal, x),
        None => bail!(
            "a strategy asked for {signal:?}, which is about block 0: it is shown to hooks around blocks that begin there"
        ),
    }
}
