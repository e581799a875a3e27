//! One pass through the caches, without tensors.

use std::ops::Range;

use super::{
    Asked, Ring, Runtime,
    session::{Last, Slot},
};
use crate::{
    Branch, Step, Verdict, Why, Window,
    log::{DecisionLog, Record},
    state::{SlotKey, Slots},
    strategy::{Seen, Since},
};

/// One pass.
pub(super) struct Onion<'a, R> {
    pub(super) step: &'a Step,
    pub(super) branch: Branch,
    pub(super) slots: &'a mut Slots,
    pub(super) log: &'a mut DecisionLog,
    pub(super) runtime: &'a mut R,
}

/// The parts of `blocks` before, inside and after `at`.
pub(super) fn parts(blocks: &Range<usize>, at: &Range<usize>) -> [Range<usize>; 3] {
    let from = at.start.clamp(blocks.start, blocks.end);
    let to = at.end.clamp(from, blocks.end);
    [blocks.start..from, from..to, to..blocks.end]
}

/// The front, middle and back blocks of a window; `None` if nothing is left between them.
pub(super) fn windows(blocks: &Range<usize>, window: Window) -> Option<[Range<usize>; 3]> {
    let start = blocks.start.saturating_add(window.front);
    let end = blocks.end.saturating_sub(window.back);
    (start < end).then_some([blocks.start..start, start..end, end..blocks.end])
}

impl<R: Runtime> Onion<'_, R> {
    /// Runs `blocks` through `rings`; returns whether every block really ran.
    pub(super) fn run(
        &mut self,
        rings: &[Ring],
        blocks: Range<usize>,
        forced: bool,
    ) -> Result<bool, R::Error> {
        if blocks.is_empty() {
            return Ok(true);
        }
        let Some((ring, inner)) = rings.split_first() else {
            self.runtime.compute(blocks)?;
            return Ok(true);
        };
        if !ring.acts_in(self.step.expert) {
            return self.run(inner, blocks, forced);
        }
        let [before, inside, after] = parts(&blocks, &ring.at);
        let mut exact = self.run(inner, before, forced)?;
        if !inside.is_empty() {
            exact &= self.ring(ring, inner, inside, forced)?;
        }
        Ok(exact & self.run(inner, after, forced)?)
    }

    fn ring(
        &mut self,
        ring: &Ring,
        inner: &[Ring],
        blocks: Range<usize>,
        forced: bool,
    ) -> Result<bool, R::Error> {
        let Some([front, middle, back]) = windows(&blocks, ring.rule.window()).filter(|_| !forced) else {
            let why = if forced { Why::Forced } else { Why::Window };
            self.note(ring, blocks.clone(), Verdict::compute(why));
            return self.run(inner, blocks, forced);
        };
        if !front.is_empty() {
            self.runtime.enter(ring.id, front.clone())?;
            self.run(inner, front.clone(), true)?;
        }
        let key = SlotKey {
            hook: ring.id,
            blocks: middle.clone(),
            expert: self.step.expert,
            branch: self.branch,
            eval: self.step.eval,
        };
        // A new slot takes its count from the log: what is forgotten must not lift a cap.
        let mut slot: Slot = self.slots.take_if_there(&key).unwrap_or_else(|| {
            let mut new = Slot::default();
            new.history.skipped = self.log.reuses_of(&key, self.step).0;
            new
        });
        let verdict = self.decide(ring, &front, &middle, &mut slot);
        // Keep the decision for a retry, whatever happens from here on.
        self.slots.set_aside(key.clone(), slot, 0);
        let verdict = verdict?;
        self.note(ring, middle.clone(), verdict);
        let exact = if verdict.reuse {
            self.runtime.reuse(ring.id, middle.clone())?;
            self.skip(inner, &middle);
            false
        } else {
            self.runtime.enter(ring.id, middle.clone())?;
            let exact = self.run(inner, middle.clone(), false)?;
            if exact {
                self.runtime.leave(ring.id, middle)?;
            }
            exact
        };
        slot.ends(self.step.index, ring, exact);
        self.slots.put(key, slot, 0);
        Ok(exact & self.run(inner, back, true)?)
    }

    fn decide(
        &mut self,
        ring: &Ring,
        front: &Range<usize>,
        middle: &Range<usize>,
        slot: &mut Slot,
    ) -> Result<Verdict, R::Error> {
        let step = self.step;
        if let Some(last) = slot.last.filter(|last| last.step == step.index) {
            return Ok(last.verdict);
        }
        let mut verdict = if ring.guards.follows(self.branch) {
            match self.log.decision(ring.id, middle, step, Branch::Cond) {
                Some(leader) if leader.reused => Verdict::reuse(Why::Followed),
                Some(_) => Verdict::compute(Why::Followed),
                None => Verdict::compute(Why::NoLeader),
            }
        } else {
            let (branch, history) = (self.branch, slot.history);
            let mut seen = Seen { step, branch, history, measured: None };
            if let Some(measure) = ring.rule.measure() {
                let (blocks, front, since) = (middle.clone(), front.clone(), slot.anchor);
                let asked = Asked { cache: ring.id, blocks, front, measure: &measure, since };
                let number = self.runtime.measure(&asked)?;
                seen.measured = since.map(|_| number);
                if measure.since == Since::Previous {
                    slot.anchor = Some(step.index);
                }
            }
            ring.rule.decide(&seen, &mut slot.carried)
        };
        if !verdict.is_finite() {
            *slot = slot.forgotten();
            verdict = verdict.overruled(Why::FailsafeNonFinite);
        } else if let Some(why) = ring.guards.verdict(step, &slot.history) {
            verdict = verdict.overruled(why);
        }
        if verdict.reuse && slot.history.last_computed.is_none() {
            verdict = verdict.overruled(Why::NoHistory);
        }
        slot.last = Some(Last { step: step.index, verdict, learned: false });
        Ok(verdict)
    }

    /// Tells the rings of `blocks` that an outer one replaced them.
    fn skip(&mut self, rings: &[Ring], blocks: &Range<usize>) {
        let Some((ring, inner)) = rings.split_first() else { return };
        if !ring.acts_in(self.step.expert) {
            return self.skip(inner, blocks);
        }
        let [before, inside, after] = parts(blocks, &ring.at);
        self.skip(inner, &before);
        if !inside.is_empty() {
            self.note(ring, inside.clone(), Verdict::reuse(Why::OuterCache));
            self.skip(inner, &inside);
        }
        self.skip(inner, &after);
    }

    fn note(&mut self, ring: &Ring, blocks: Range<usize>, verdict: Verdict) {
        self.log.push(Record {
            step: self.step.place(),
            eval: self.step.eval,
            expert: self.step.expert,
            branch: self.branch,
            hook: ring.id,
            blocks,
            module: None,
            reused: verdict.reuse,
            why: verdict.why,
            metric: verdict.metric,
            accumulated: verdict.accumulated,
            audit: None,
            bytes: 0,
        });
    }
}

impl Slot {
    /// Enters the outcome of a decision into the history, once.
    fn ends(&mut self, step: usize, ring: &Ring, exact: bool) {
        let Some(last) = self.last.filter(|last| !last.learned) else { return };
        if last.verdict.reuse {
            self.history.consecutive += 1;
            self.history.skipped += 1;
        } else {
            self.history.consecutive = 0;
        }
        if exact {
            self.history.last_computed = Some(step);
            self.carried = None;
            if ring.rule.measure().is_some() {
                self.anchor = Some(step);
            }
        }
        self.last = Some(Last { learned: last.verdict.reuse || exact, ..last });
    }

    /// Without anything that was measured or learned; the count for caps stays.
    fn forgotten(self) -> Self {
        let mut new = Self::default();
        new.history.skipped = self.history.skipped;
        new
    }
}
