//! The inputs of a decision.

use std::fmt::Debug;

use candle_core::{Result, Tensor, bail};

use super::History;
use crate::{
    Signal, Streams,
    chain::Probe,
    group::Together,
    metrics::{self, Sums},
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
    /// The grid in which the tokens of the denoised stream lie, as [`Cx::grid`](crate::Cx::grid).
    pub grid: &'a [usize],
    pub(crate) probe: Option<Probe<'a>>,
    pub(crate) together: Together<'a>,
}

impl Head<'_> {
    /// Computes a signal of the model.
    ///
    /// Errors: the model does not expose it.
    pub fn signal(&self, signal: Signal) -> Result<Tensor> {
        ask(self.probe, signal, self.input)
    }

    /// The tokens of all ranks, of a signal `[batch, tokens, channels]` of which this rank has its own; at
    /// the cost of an exchange of the whole signal.
    pub fn all_tokens(&self, signal: &Tensor) -> Result<Tensor> {
        self.together.all_tokens(signal)
    }

    /// The residual of the front blocks on the denoised stream, `[batch, tokens, channels]`.
    pub fn front_residual(&self) -> Result<Tensor> {
        self.fronted.image()?.sub(&self.input.image()?)
    }

    /// The residual of the front blocks on all streams, `[batch, tokens of all, channels]`.
    pub fn front_residual_of_all(&self) -> Result<Tensor> {
        self.fronted.sequence()?.sub(&self.input.sequence()?)
    }

    /// The residual of the front blocks and its [`metrics::relative_l1`] to `before`, over all ranks, in one
    /// sweep.
    pub fn front_residual_and_change(&self, before: &Tensor) -> Result<(Tensor, f64)> {
        let (fronted, input) = (self.fronted.image()?, self.input.image()?);
        let (now, sums) = metrics::residual_and_l1_sums(&fronted, &input, before)?;
        Ok((now, metrics::worst(self.together.sums(sums)?.iter().map(Sums::ratio))))
    }

    /// [`metrics::relative_l1`] over all ranks.
    pub fn relative_l1(&self, now: &Tensor, before: &Tensor) -> Result<f64> {
        let [distance] = self.relative_l1_of([(now, before)])?;
        Ok(distance)
    }

    /// The same of several pairs, which a device is waited for once.
    pub fn relative_l1_of<const N: usize>(&self, pairs: [(&Tensor, &Tensor); N]) -> Result<[f64; N]> {
        let mut distances = [0.0; N];
        for (distance, sums) in distances.iter_mut().zip(metrics::l1_sums_of(pairs)?) {
            *distance = metrics::worst(self.together.sums(sums)?.iter().map(Sums::ratio));
        }
        Ok(distances)
    }

    /// [`metrics::relative_l2`] over all ranks.
    pub fn relative_l2(&self, now: &Tensor, before: &Tensor) -> Result<f64> {
        let sums = self.together.sums(metrics::l2_sums(now, before)?)?;
        Ok(metrics::worst(sums.iter().map(|sums| sums.ratio().sqrt())))
    }

    /// The largest of a number over all ranks, for a metric of the strategy's own: with several ranks, each
    /// sees its own tokens alone.
    pub fn largest(&self, metric: f64) -> Result<f64> {
        self.together.largest(metric)
    }

    /// The places in `seen` of every `every`-th token, counted over all ranks; `of_all` says that `seen` has
    /// the tokens of all streams.
    pub(crate) fn every(&self, every: usize, seen: &Tensor, of_all: bool) -> Result<Vec<u32>> {
        let parts = if of_all { self.fronted.parts()? } else { vec![seen.dim(1)?] };
        let (mut chosen, mut before, mut first) = (Vec::new(), 0, 0);
        for len in parts {
            let (place, all) = self.together.place_of(len)?;
            let here = (0..len).filter(|i| (before + place + i).is_multiple_of(every));
            chosen.extend(here.map(|i| (first + i) as u32));
            (before, first) = (before + all, first + len);
        }
        Ok(chosen)
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
