//! Learning from computed blocks, and auditing a reuse against them.

use candle_core::Result;

use super::{
    CacheHook,
    decide::{Basis, entered},
    slot::{Last, Made, Slot},
};
use crate::{
    Cx, Next, Output, Step, Streams, Why, chain::LazyOutput, forecast::Entered, log::Audit, state::SlotKey,
};

/// A reuse that was decided and logged, and is to be audited.
pub(super) struct Reuse<'r, 'n> {
    pub(super) key: &'r SlotKey,
    pub(super) last: Last,
    /// Its index in the log.
    pub(super) place: usize,
    /// The blocks that it replaces.
    pub(super) middle: Next<'n>,
    /// What entered the range.
    pub(super) input: &'r Streams,
    /// What enters them.
    pub(super) fronted: &'r Streams,
    /// The base of the forecast.
    pub(super) base: &'r Streams,
    pub(super) guess: Streams,
}

/// What a slot needs to learn from a computed pass.
pub(super) struct Lesson<'l> {
    pub(super) key: SlotKey,
    pub(super) last: Last,
    /// What entered the range.
    pub(super) input: &'l Streams,
    pub(super) basis: &'l Basis,
    /// Its index in the log.
    pub(super) place: usize,
    /// Whether the text stream is read after the blocks.
    pub(super) text: bool,
}

impl CacheHook {
    /// Runs the blocks of an audited reuse. Returns their output and the error if the drift budget is now
    /// exceeded.
    fn check(&self, cx: &mut Cx<'_>, reuse: &Reuse<'_, '_>) -> Result<Option<(Streams, Audit)>> {
        let Reuse { place, middle, fronted, base, guess, .. } = reuse;
        let blocks = middle.blocks();
        let truth = middle.clone().bare().run(cx, (*fronted).clone())?.streams;
        let audit = Audit::of(base, guess, &truth, cx.together())?;
        cx.log.audited(*place, audit);
        Ok(self.drift(cx, &blocks).passed.then_some((truth, audit)))
    }

    /// Audits a reuse. Returns the forecast, or the true output if the drift budget is now exceeded.
    pub(super) fn audited(&self, cx: &mut Cx<'_>, reuse: Reuse<'_, '_>, basis: &Basis) -> Result<LazyOutput> {
        let checked = self.check(cx, &reuse)?;
        let Reuse { key, last, place, middle, input, base, guess, .. } = reuse;
        if let Some((truth, audit)) = checked {
            cx.log.overrule(place, Why::DriftBudget);
            let last = Last { overruled: Some(audit), ..last };
            let out = Output { streams: truth, exact: true }.into();
            let text = middle.text_is_read();
            let lesson = Lesson { key: key.clone(), last, input, basis, place, text };
            self.computed(cx, lesson, &out)?;
            return Ok(out);
        }
        let mut slot = Slot::open(cx, key);
        slot.skips(last);
        let told = slot.told(&entered(cx, input, base), &guess, cx.storage);
        slot.put(cx, key.clone()).and(told)?;
        Ok(Output { streams: guess, exact: false }.into())
    }

    /// Stores what a computed pass leaves behind in its slot.
    pub(super) fn computed(&self, cx: &mut Cx<'_>, lesson: Lesson<'_>, out: &LazyOutput) -> Result<()> {
        let Lesson { key, last, input, basis, place, text } = lesson;
        let mut slot = Slot::open(cx, &key);
        slot.history.consecutive = 0;
        if last.overruled.is_some() {
            slot.turn = last.turn + 1;
            slot.last = slot.last.map(|own| Last { overruled: last.overruled, ..own });
        }
        let sound = match basis {
            Basis::Leads => out.clone().added().and_then(|out| slot.leads(cx, out)),
            // Never learn from the guess of an inner cache.
            Basis::From(base) if base.exact && out.exact => {
                self.learn(cx, &mut slot, &entered(cx, input, &base.streams), &out.streams, text)
            }
            _ => Ok(true),
        };
        slot.put(cx, key)?;
        if !sound? {
            cx.log.amend(place, Why::FailsafeNonFinite);
        }
        Ok(())
    }

    /// Learns what has not been learned yet; after an error, a retry of the pass learns the rest. Returns
    /// `false` if a stream was not finite.
    fn learn(&self, cx: &Cx<'_>, slot: &mut Slot, at: &Entered<'_>, y: &Streams, text: bool) -> Result<bool> {
        let x = at.x;
        let Some(mut last) = slot.last.filter(|last| !last.learned) else { return Ok(true) };
        let finite = y.is_finite_on_host()? && x.is_finite_on_host()?;
        if !cx.together().all("a finite output", finite)? {
            slot.reset();
            slot.last = Some(Last { observed: true, learned: true, ..last });
            return Ok(false);
        }
        if !last.observed {
            let forecast = &mut slot.forecast.get_or_insert_with(|| self.make_forecast(cx.step)).forecast;
            if text {
                forecast.observe(at, y, cx.storage)?;
            } else {
                let (input, x) = (at.input.without_text()?, x.without_text()?);
                forecast.observe(&entered(cx, &input, &x), &y.without_text()?, cx.storage)?;
            }
            last.observed = true;
            slot.last = Some(last);
        }
        if let Some(state) = &mut slot.state {
            self.cache.any_tail(state.as_mut(), cx.step, cx.branch, x, y)?;
        }
        slot.history.last_computed = Some(cx.step.index);
        slot.last = Some(Last { learned: true, ..last });
        Ok(true)
    }

    /// A forecast without history, for a run like the one that `step` belongs to.
    pub(super) fn make_forecast(&self, step: &Step) -> Made {
        let forecast = match &self.forecast {
            Some(config) => config.build(),
            None => self.cache.any_forecast(step),
        };
        Made { at: step.clone(), forecast }
    }
}
