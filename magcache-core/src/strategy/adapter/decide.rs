//! The decision of a slot: compute, or reuse and with which replacement.

use std::ops::Range;

use candle_core::Result;

use super::{
    CacheHook,
    slot::{Last, Made, Slot},
};
use crate::{
    Branch, Cx, Head, Output, Streams, Verdict, Why,
    chain::LazyOutput,
    forecast::Entered,
    log::{Record, audit::Drift},
    state::SlotKey,
    strategy::{Base, Branches},
};

/// What a forecast sees: `input` entered the range, and `x` the blocks that it replaces.
pub(super) fn entered<'a>(cx: &'a Cx<'_>, input: &'a Streams, x: &'a Streams) -> Entered<'a> {
    Entered { step: cx.step, input, x, together: cx.together() }
}

/// The base that a pass can be rebuilt from.
pub(super) enum Basis {
    /// The input of the range, or the conditional branch's output.
    From(Output),
    /// The conditional branch has not run at this step.
    NoLeader,
    /// This is the branch that others are rebuilt from.
    Leads,
}

impl CacheHook {
    /// The accumulated audits of a slot.
    pub(super) fn drift(&self, cx: &Cx<'_>, blocks: &Range<usize>) -> Drift {
        let here = |r: &&Record| {
            (r.hook, r.branch, r.expert, r.eval) == (self.id, cx.branch, cx.step.expert, cx.step.eval)
                && r.blocks == *blocks
                && r.module.as_ref() == cx.module
        };
        Drift::of(cx.log.records().iter().filter(here), cx.audit, self.guards.max_skips)
    }

    /// Whether the reuse with this number in its slot is audited.
    pub(super) fn is_due(&self, cx: &Cx<'_>, turn: usize, blocks: &Range<usize>) -> bool {
        if self.guards.follows(cx.branch) {
            let leader = cx.log.decision(self.id, blocks, cx.step, Branch::Cond);
            leader.is_some_and(|leader| leader.audit.is_some())
        } else {
            cx.audit.is_due(turn)
        }
    }

    /// Waits for the decision that this branch follows, if its branch runs on other ranks.
    pub(super) fn hear(&self, cx: &mut Cx<'_>, blocks: &Range<usize>) -> Result<()> {
        let (Some(branches), true) = (&mut cx.branches, self.guards.follows(cx.branch)) else {
            return Ok(());
        };
        let step = cx.step;
        branches.hear(cx.log, |r| r.decides(self.id, blocks, step, Branch::Cond))
    }

    /// Tells the ranks of branches that follow this one what was decided, and is final.
    pub(super) fn tell(&self, cx: &Cx<'_>, place: usize) -> Result<()> {
        let leads = self.guards.branches == Branches::CondDecides && !self.guards.follows(cx.branch);
        match (&cx.branches, cx.log.records().get(place)) {
            (Some(branches), Some(record)) if leads => branches.tell(record),
            _ => Ok(()),
        }
    }

    pub(super) fn basis(&self, cx: &Cx<'_>, key: &SlotKey, fronted: &Streams) -> Basis {
        match (self.cache.any_base(), cx.branch) {
            (Base::Input, _) => Basis::From(Output { streams: fronted.clone(), exact: true }),
            (Base::Leader, Branch::Cond) => Basis::Leads,
            (Base::Leader, _) => {
                let cond = SlotKey { branch: Branch::Cond, ..key.clone() };
                let lead = cx.slots.peek::<Slot>(&cond).and_then(|slot| slot.lead.as_ref());
                let now = lead.filter(|lead| lead.step == cx.step.index);
                now.map_or(Basis::NoLeader, |lead| Basis::From(lead.out.clone()))
            }
        }
    }

    /// The decision for this step and, for a reuse, the replacement. A decision is final for its step.
    pub(super) fn decide(
        &self,
        cx: &Cx<'_>,
        slot: &mut Slot,
        head: &Head<'_>,
        blocks: &Range<usize>,
    ) -> Result<(Last, Option<LazyOutput>)> {
        let kind = head.fronted.kind()?;
        let changed = slot.kind.replace(kind.clone()).is_some_and(|before| before != kind);
        if changed {
            slot.reset();
            slot.kind = Some(kind);
        }
        let predict = |slot: &Slot| -> Result<Option<LazyOutput>> {
            let Some(Made { forecast, .. }) = &slot.forecast else { return Ok(None) };
            let lazy = if forecast.hears_stand_ins() { None } else { forecast.residual(cx.step)? };
            if let residual @ Some(_) = lazy {
                return Ok(Some(LazyOutput { streams: head.fronted.clone(), residual, exact: false }));
            }
            let predicted = forecast.predict(&entered(cx, head.input, head.fronted))?;
            Ok(predicted.map(|streams| Output { streams, exact: false }.into()))
        };
        let decided = slot.last.filter(|last| last.step == cx.step.index);
        let mut last = match decided {
            Some(last) => last,
            None => {
                let verdict = self.verdict(cx, slot, head, blocks, changed)?;
                let (step, overruled, observed, learned) = (cx.step.index, None, false, false);
                Last { step, verdict, turn: slot.turn, overruled, observed, learned }
            }
        };
        // What follows may fail, and the strategy must not be asked twice.
        slot.last = Some(last);
        if !last.verdict.reuse || last.overruled.is_some() {
            return Ok((last, None));
        }
        let guess = predict(slot)?;
        if guess.is_none() && decided.is_none() {
            last.verdict = last.verdict.overruled(Why::NoHistory);
            slot.last = Some(last);
        }
        Ok((last, guess))
    }

    /// The verdict, before it is known whether the forecast can provide a replacement.
    fn verdict(
        &self,
        cx: &Cx<'_>,
        slot: &mut Slot,
        head: &Head<'_>,
        blocks: &Range<usize>,
        changed: bool,
    ) -> Result<Verdict> {
        let verdict = if self.guards.follows(cx.branch) {
            match cx.log.decision(self.id, blocks, cx.step, Branch::Cond) {
                Some(leader) if leader.reused => Verdict::reuse(Why::Followed),
                Some(_) => Verdict::compute(Why::Followed),
                None => Verdict::compute(Why::NoLeader),
            }
        } else {
            let head = Head { history: slot.history, ..*head };
            let state = slot.state.get_or_insert_with(|| self.cache.any_state());
            self.cache.any_head(state.as_mut(), cx.step, cx.branch, &head)?
        };
        if !verdict.is_finite() {
            slot.reset();
            return Ok(verdict.overruled(Why::FailsafeNonFinite));
        }
        if changed {
            return Ok(verdict.overruled(Why::FailsafeShape));
        }
        Ok(match self.guards.verdict(cx.step, &slot.history) {
            Some(why) => verdict.overruled(why),
            None if verdict.reuse && self.drift(cx, blocks).forbids(slot.history.consecutive) => {
                verdict.overruled(Why::DriftBudget)
            }
            None => verdict,
        })
    }
}
