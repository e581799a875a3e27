//! The state of one request.

use std::{any::Any, sync::Arc};

use super::{Decisions, Runtime, onion::Onion};
use crate::{
    Branch, Step, Verdict,
    error::count,
    log::{DecisionLog, Done},
    snapshot::{Persist, Reader, SnapshotError, Writer},
    state::{SlotKey, Slots},
    strategy::History,
};

/// All state of one request. Create a new one for each request; nothing is ever reset.
#[derive(Debug)]
pub struct DecisionSession {
    decisions: Arc<Decisions>,
    slots: Slots,
    log: DecisionLog,
    done: Done,
}

/// The state of one cache, range, expert, branch and evaluation.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slot {
    pub(super) history: History,
    /// What the rule carries.
    pub(super) carried: Option<f64>,
    /// The step whose quantity the next one is compared with.
    pub(super) anchor: Option<usize>,
    pub(super) last: Option<Last>,
}

/// The last decision of a slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Last {
    pub(super) step: usize,
    pub(super) verdict: Verdict,
    /// Whether its outcome is in the history.
    pub(super) learned: bool,
}

crate::fields!(Slot { history, carried, anchor, last });
crate::fields!(Last { step, verdict, learned });

impl DecisionSession {
    pub(super) fn new(decisions: Arc<Decisions>) -> Self {
        Self { decisions, slots: Slots::default(), log: DecisionLog::default(), done: Done::default() }
    }

    /// One forward of one branch at one step: `runtime` is told what to do with each block, in order.
    ///
    /// Step, evaluation and branch identify a pass; running one again before the next step repeats its
    /// decisions, as with [`Session::pass`](crate::Session::pass).
    ///
    /// # Errors
    /// The runtime's. The pass has then decided nothing: a retry decides anew, and without one the next step
    /// computes.
    pub fn pass<R: Runtime>(&mut self, step: &Step, branch: Branch, runtime: &mut R) -> Result<(), R::Error> {
        let Self { decisions, slots, log, done } = self;
        slots.begin(step);
        log.begin(done.has(step, branch));
        let mut onion = Onion { step, branch, slots, log, runtime };
        let out = onion.run(&decisions.rings, 0..decisions.blocks, false).map(|_| ());
        log.begin(false);
        done.note(step, branch, out.is_err());
        slots.end(step, branch, out.is_err());
        log.end(step, branch, out.is_err());
        out
    }

    /// Every decision so far.
    pub fn log(&self) -> &DecisionLog {
        &self.log
    }

    /// Writes everything that a later pass depends on, and every decision so far.
    ///
    /// # Errors
    /// A slot that is not this session's own.
    pub fn save(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        let write = |key: &SlotKey, slot: &dyn Any, to: &mut Writer<'_>| match slot.downcast_ref::<Slot>() {
            Some(slot) => {
                to.field("own", slot);
                Ok(())
            }
            None => {
                Err(SnapshotError::Refused { hook: key.hook.0, name: "a slot of another hook".to_owned() })
            }
        };
        to.field("caches", &self.decisions.words());
        self.slots.save(write, &mut to.at("slots"))?;
        to.field("log", &self.log);
        to.field("done", &self.done);
        Ok(())
    }

    /// Restores the state written by [`DecisionSession::save`] into a session of the same caches.
    ///
    /// # Errors
    /// A part that is missing or malformed, or the state of other caches; the session is then unchanged.
    pub fn restore(&mut self, from: &Reader<'_>) -> Result<(), SnapshotError> {
        let (caches, own) = (from.at("caches"), self.decisions.words());
        let stored: Vec<String> = from.field("caches")?;
        if stored.len() != own.len() {
            return Err(caches.odd(count(own.len(), "cache"), stored.len()));
        }
        if let Some((i, (stored, own))) = stored.iter().zip(&own).enumerate().find(|(_, (a, b))| a != b) {
            return Err(caches.at(&i.to_string()).odd(format!("{own:?}"), stored));
        }
        let read = |_: &SlotKey, from: &Reader<'_>| Ok(Box::new(from.field::<Slot>("own")?) as _);
        let slots = Slots::read(None, read, &from.at("slots"))?;
        let done = from.field("done")?;
        let mut log = DecisionLog::default();
        log.load(&from.at("log"))?;
        (self.slots, self.log, self.done) = (slots, log, done);
        Ok(())
    }
}
