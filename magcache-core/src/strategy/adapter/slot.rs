//! The contents of one slot of a cache.

use candle_core::Result;

use crate::{
    Cx, Output, Step, Streams, Verdict, Why,
    forecast::{Entered, Forecast},
    log::Audit,
    snapshot::{Persist, Reader, SnapshotError, Writer},
    state::{SlotKey, StoragePolicy},
    strategy::{AnyState, History},
    streams::Kind,
};

/// The state of one hook, range, expert, branch and evaluation.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) state: Option<Box<dyn AnyState>>,
    pub(super) forecast: Option<Made>,
    pub(super) history: History,
    /// Number of reuses decided so far, which selects those to audit.
    pub(super) turn: usize,
    pub(super) kind: Option<Kind>,
    pub(super) lead: Option<Lead>,
    pub(super) last: Option<Last>,
}

/// A forecast, and the step at which it was made, from which it can be made again.
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

    fn whole_bytes(&self) -> usize {
        self.forecast.whole_bytes()
    }
}

/// The output of the conditional branch at a step.
pub(super) struct Lead {
    pub(super) step: usize,
    pub(super) out: Output,
}

crate::fields!(Lead { step, out });

/// The last decision of a slot.
#[derive(Clone, Copy)]
pub(super) struct Last {
    pub(super) step: usize,
    pub(super) verdict: Verdict,
    /// The number of the reuse in its slot, which selects it for an audit.
    pub(super) turn: usize,
    /// The audit of a reuse that exceeded the drift budget, so that the true output was used.
    pub(super) overruled: Option<Audit>,
    /// Whether the forecast has observed the output of the blocks, or need not.
    pub(super) observed: bool,
    /// Whether the strategy has too, so that nothing is left to learn.
    pub(super) learned: bool,
}

crate::fields!(Last { step, verdict, turn, overruled, observed, learned });

impl Last {
    /// A decision to compute that follows from the order of the branches alone.
    pub(super) fn computes(step: &Step, why: Why) -> Self {
        let verdict = Verdict::compute(why);
        Self { step: step.index, verdict, turn: 0, overruled: None, observed: false, learned: false }
    }

    /// The verdict to log.
    pub(super) fn shown(&self) -> Verdict {
        if self.overruled.is_some() { self.verdict.overruled(Why::DriftBudget) } else { self.verdict }
    }
}

impl Slot {
    /// Takes the slot out of the session. A new slot takes its counts from the log, because an error, an
    /// eviction or a change of shape must not lift a cap.
    pub(super) fn open(cx: &mut Cx<'_>, key: &SlotKey) -> Self {
        cx.slots.take_if_there(key).unwrap_or_else(|| {
            let (skipped, turn) = cx.log.reuses_of(key, cx.step);
            Self { history: History { skipped, ..History::default() }, turn, ..Self::default() }
        })
    }

    /// Bytes of its tensors here, and those that every rank holds whole.
    fn bytes(&self) -> (usize, usize) {
        let (state, lead, forecast) = (self.state.as_ref(), &self.lead, self.forecast.as_ref());
        let bytes = state.map_or(0, |s| s.bytes()) + lead.bytes() + forecast.map_or(0, Persist::bytes);
        let whole = state.map_or(0, |s| s.whole_bytes())
            + lead.whole_bytes()
            + forecast.map_or(0, Persist::whole_bytes);
        (bytes, whole)
    }

    /// Records that the last decision was carried out: blocks were replaced.
    pub(super) fn skips(&mut self, last: Last) {
        if !last.learned {
            self.last = Some(Last { learned: true, ..last });
            self.turn = last.turn + 1;
            self.history.consecutive += 1;
            self.history.skipped += 1;
        }
    }

    /// Tells a forecast whose memory has every step that its prediction `y` is used.
    pub(super) fn told(&mut self, at: &Entered<'_>, y: &Streams, storage: &StoragePolicy) -> Result<()> {
        match &mut self.forecast {
            Some(Made { forecast, .. }) if forecast.hears_stand_ins() => forecast.stood_in(at, y, storage),
            _ => Ok(()),
        }
    }

    /// Returns the slot to the session while the pass continues.
    ///
    /// Errors: other ranks do not answer; the slot is kept even so, for a retry.
    pub(super) fn set_aside(self, cx: &mut Cx<'_>, key: SlotKey) -> Result<()> {
        let (own, whole) = self.bytes();
        let all = cx.together().bytes(own, whole);
        cx.slots.set_aside(key, self, *all.as_ref().unwrap_or(&own));
        all.map(drop)
    }

    /// Returns the slot to the session, which may have no room for it.
    /// What counts are the bytes on all ranks, so all of them evict the same slots.
    ///
    /// Errors: as [`Slot::set_aside`].
    pub(super) fn put(self, cx: &mut Cx<'_>, key: SlotKey) -> Result<()> {
        let (own, whole) = self.bytes();
        let all = cx.together().bytes(own, whole);
        cx.slots.put(key, self, *all.as_ref().unwrap_or(&own));
        all.map(drop)
    }

    /// Keeps the output of a conditional pass for the later branches. Returns `false` if it cannot be used.
    pub(super) fn leads(&mut self, cx: &Cx<'_>, out: Output) -> Result<bool> {
        let usable = cx.together().all("a finite output", out.streams.is_finite_on_host()?)?;
        self.lead = usable.then_some(Lead { step: cx.step.index, out });
        Ok(usable)
    }

    /// Forgets everything except the counts for caps.
    pub(super) fn reset(&mut self) {
        let (skipped, turn) = (self.history.skipped, self.turn);
        *self = Self { history: History { skipped, ..History::default() }, turn, ..Self::default() };
    }
}
