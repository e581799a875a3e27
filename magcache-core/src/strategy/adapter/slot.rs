//! What one slot of a cache holds.

use candle_core::Result;

use crate::{
    Cx, Output, Step, Verdict, Why,
    forecast::Forecast,
    log::Audit,
    snapshot::{Persist, Reader, SnapshotError, Writer},
    state::SlotKey,
    strategy::{AnyState, History},
    streams::Kind,
};

/// The state of one hook, range, expert, branch and evaluation.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) state: Option<Box<dyn AnyState>>,
    pub(super) forecast: Option<Made>,
    pub(super) history: History,
    /// Reuses decided so far, by which they are audited.
    pub(super) turn: usize,
    pub(super) kind: Option<Kind>,
    pub(super) lead: Option<Lead>,
    pub(super) last: Option<Last>,
}

/// A forecast, and the step that it was made at: what it takes to make it again.
pub(super) struct Made {
    pub(super) at: Step,
    pub(super) forecast: Box<dyn Forecast>,
}

impl Persist for Made {
    fn save(&self, to: &mut Writer<'_>) {
        to.field("at", &self.at);
        to.field("memory", self.forecast.as_ref());
    }

    fn load(&mut self, from: &Reader<'_>) -> std::result::Result<(), SnapshotError> {
        self.at = from.field("at")?;
        self.forecast.load(&from.at("memory"))
    }

    fn bytes(&self) -> usize {
        self.forecast.bytes()
    }
}

/// What the conditional branch gave at a step.
pub(super) struct Lead {
    pub(super) step: usize,
    pub(super) out: Output,
}

crate::fields!(Lead { step, out });

/// What a slot decided last.
#[derive(Clone, Copy)]
pub(super) struct Last {
    pub(super) step: usize,
    pub(super) verdict: Verdict,
    /// The number of the reuse in its slot, by which it is audited.
    pub(super) turn: usize,
    /// Of a reuse that passed the drift budget: the truth stood in.
    pub(super) overruled: Option<Audit>,
    /// The forecast has seen what the blocks gave, or needs not.
    pub(super) observed: bool,
    /// So has the strategy: nothing is left to learn.
    pub(super) learned: bool,
}

crate::fields!(Last { step, verdict, turn, overruled, observed, learned });

impl Last {
    /// A decision that nothing but the order of the branches made.
    pub(super) fn computes(step: &Step, why: Why) -> Self {
        let verdict = Verdict::compute(why);
        Self { step: step.index, verdict, turn: 0, overruled: None, observed: false, learned: false }
    }

    /// As it is logged.
    pub(super) fn shown(&self) -> Verdict {
        if self.overruled.is_some() { self.verdict.overruled(Why::DriftBudget) } else { self.verdict }
    }
}

impl Slot {
    /// Out of the session. A new one counts on from the log, because an error, an eviction or another shape must not lift a cap.
    pub(super) fn open(cx: &mut Cx<'_>, key: &SlotKey) -> Self {
        cx.slots.take_if_there(key).unwrap_or_else(|| {
            let (skipped, turn) = cx.log.reuses_of(key);
            Self { history: History { skipped, ..History::default() }, turn, ..Self::default() }
        })
    }

    pub(super) fn bytes(&self) -> usize {
        let state = self.state.as_ref().map_or(0, |state| state.bytes());
        state + self.lead.bytes() + self.forecast.as_ref().map_or(0, Persist::bytes)
    }

    /// Notes that what was decided last was done: blocks were replaced.
    pub(super) fn skips(&mut self, last: Last) {
        if !last.learned {
            self.last = Some(Last { learned: true, ..last });
            self.turn = last.turn + 1;
            self.history.consecutive += 1;
            self.history.skipped += 1;
        }
    }

    /// Back to the session while the pass goes on.
    pub(super) fn set_aside(self, cx: &mut Cx<'_>, key: SlotKey) {
        let bytes = self.bytes();
        cx.slots.set_aside(key, self, bytes);
    }

    /// Back to the session, which may not have room for it.
    pub(super) fn put(self, cx: &mut Cx<'_>, key: SlotKey) {
        let bytes = self.bytes();
        cx.slots.put(key, self, bytes);
    }

    /// Keeps the output of a conditional pass for the branches after it; `false` where it cannot be used.
    pub(super) fn leads(&mut self, step: usize, out: Output) -> Result<bool> {
        let usable = out.streams.is_finite_on_host()?;
        self.lead = usable.then_some(Lead { step, out });
        Ok(usable)
    }

    /// Forgets everything but what caps count.
    pub(super) fn reset(&mut self) {
        let (skipped, turn) = (self.history.skipped, self.turn);
        *self = Self { history: History { skipped, ..History::default() }, turn, ..Self::default() };
    }
}
