//! How the magnitude of the whole stack's residual changes from step to step.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use candle_core::{Result, Tensor};
use magcache_core::{BlockHook, Branch, Cx, Next, Output, Streams, metrics};

type Shared = Arc<Mutex<BTreeMap<Branch, Track>>>;

/// What the hook has seen of one branch.
#[derive(Debug, Default)]
struct Track {
    before: Option<Tensor>,
    ratios: Vec<f64>,
}

/// Measured ratios, by branch.
#[derive(Debug, Default)]
pub(super) struct Ratios(Shared);

impl Ratios {
    /// The hook that measures; it changes nothing.
    pub(super) fn hook(&self) -> Measure {
        Measure(Arc::clone(&self.0))
    }

    /// What was measured, the first ratio of a branch being 1.
    pub(super) fn take(self) -> impl Iterator<Item = (Branch, Vec<f64>)> {
        let tracks = mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        tracks.into_iter().map(|(branch, track)| (branch, track.ratios))
    }
}

/// Runs the blocks and compares what they added with what they added at the step before.
#[derive(Debug)]
pub(super) struct Measure(Shared);

impl BlockHook for Measure {
    fn call(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> Result<Output> {
        let entered = x.image()?;
        let output = next.run(cx, x)?;
        let residual = output.streams.image()?.sub(&entered)?;
        let mut tracks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let track = tracks.entry(cx.branch).or_default();
        let ratio = match &track.before {
            Some(before) => metrics::magnitude_ratio(&residual, before)?.ratio,
            None => 1.0,
        };
        track.ratios.push(ratio);
        track.before = Some(residual);
        Ok(output)
    }
}
