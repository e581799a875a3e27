//! Watches dense passes.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use candle_core::{Result, Tensor};

use super::{Distances, Magnitudes, Recording, Response};
use crate::{BlockHook, Branch, Cx, HookRegistry, ModelMeta, Next, Output, Signal, Streams, state::SlotKey};

/// Records the measurements for a profile while the model runs without caches.
///
/// Its registry has one hook around all blocks that changes nothing. One session is one run: each pass is
/// compared with the previous pass of the same expert and branch, kept in the slots of the session. Holds the
/// image stream's residual, the blocks' output and every signal of one step at a time. On several ranks each
/// records the numbers of all tokens.
#[derive(Clone)]
pub struct Recorder(Arc<Watch>);

struct Watch {
    model: ModelMeta,
    seen: Mutex<Recording>,
}

/// Keeps the last prediction of the conditional branch. Changes nothing.
#[derive(Clone, Debug, Default)]
pub struct LastPrediction(Arc<Mutex<Option<Tensor>>>);

impl LastPrediction {
    /// Takes the prediction; `None` before the first pass.
    pub fn take(&self) -> Option<Tensor> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl BlockHook for LastPrediction {
    fn call(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> Result<Output> {
        let branch = cx.branch;
        let out = next.run(cx, x)?;
        if branch == Branch::Cond {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(out.streams.image()?);
        }
        Ok(out)
    }
}

/// One pass's tensors, kept for the next one.
#[derive(Default)]
struct Before(Option<Seen>);

struct Seen {
    residual: Tensor,
    output: Tensor,
    signals: BTreeMap<Signal, Tensor>,
}

impl Recorder {
    /// A recorder for a model; records every signal that the model exposes.
    pub fn new(model: &ModelMeta) -> Self {
        Self(Arc::new(Watch { model: model.clone(), seen: Mutex::default() }))
    }

    /// The hooks for the sessions of all runs.
    pub fn registry(&self) -> Arc<HookRegistry> {
        HookRegistry::for_model(&self.0.model).build().outside(Arc::new(self.clone()))
    }

    /// Adds a response, which is measured outside the runs.
    pub fn add(&self, response: Response) {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner).responses.push(response);
    }

    /// The recording so far, over all runs.
    pub fn recording(&self) -> Recording {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Seen {
    fn bytes(&self) -> usize {
        let of = |t: &Tensor| t.elem_count() * t.dtype().size_in_bytes();
        of(&self.residual) + of(&self.output) + self.signals.values().map(of).sum::<usize>()
    }
}

impl BlockHook for Recorder {
    fn call(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> Result<Output> {
        if cx.is_again() {
            return next.run(cx, x);
        }
        let mut signals = BTreeMap::new();
        if let Some(probe) = cx.probe {
            for signal in self.0.model.signals.iter() {
                signals.insert(*signal, probe(*signal, &x)?);
            }
        }
        let (entered, blocks) = (x.image()?, next.blocks());
        let out = next.run(cx, x)?;
        let output = out.streams.image()?;
        let now = Seen { residual: (&output - entered)?, output, signals };
        let (expert, branch, eval) = (cx.step.expert, cx.branch, cx.step.eval);
        let key = SlotKey { hook: cx.hook, blocks, expert, branch, eval };
        let Before(before) = cx.slots.take(&key);
        let (magnitudes, distances) = match &before {
            None => (Magnitudes::default(), None),
            Some(before) => {
                let together = cx.together();
                let (ratio, cosine_distance) = together.magnitudes(&now.residual, &before.residual)?;
                let signals = now.signals.iter().filter_map(|(signal, tensor)| {
                    let before = before.signals.get(signal)?;
                    Some(together.relative_l1(tensor, before).map(|distance| (*signal, distance)))
                });
                let distances = Distances {
                    expert,
                    branch,
                    step: cx.step.index,
                    signals: signals.collect::<Result<_>>()?,
                    residual: together.relative_l1(&now.residual, &before.residual)?,
                    hidden_states: together.relative_l1(&now.output, &before.output)?,
                };
                (Magnitudes { ratio, cosine_distance }, Some(distances))
            }
        };
        let mut seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.add(cx.step, branch, magnitudes, distances);
        let bytes = now.bytes();
        cx.slots.put(key, Before(Some(now)), bytes);
        Ok(out)
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("signals", &self.0.model.signals).finish_non_exhaustive()
    }
}
