//! The one adapter between a strategy and the chain: it runs, substitutes and stores.

mod slot;

use std::{any::Any, ops::Range, sync::Arc};

use candle_core::Result;

use self::slot::{Last, Made, Slot};
use crate::{
    AnyCache, Audit, Base, BlockHook, Branch, Cx, ForecastConfig, ForecastTable, Guards, Head, HookId, Next,
    Output, Persist, Reader, Record, SlotKey, SnapshotError, Step, Streams, Verdict, Why, Window, Writer,
    audit::Drift,
};

/// A strategy and a forecast as a hook.
///
/// Learns only from passes in which every block of its range really ran: what an inner cache guessed is never
/// recorded. Blocks are replaced here and nowhere else. With [`Base::Leader`] a branch learns how it differs from
/// the conditional one, from steps at which both really ran.
///
/// A slot remembers what was decided at its last step and what was learned since, so that a pass that is run again goes on
/// from there: it repeats the decision and learns what it has not learned.
#[derive(Debug)]
pub struct CacheHook {
    id: HookId,
    cache: Box<dyn AnyCache>,
    forecast: Option<Arc<dyn ForecastConfig>>,
    guards: Guards,
}

/// A reuse that was decided and logged, and is audited.
struct Reuse<'r, 'n> {
    key: &'r SlotKey,
    last: Last,
    /// Its place in the log.
    place: usize,
    /// The blocks that it stands in for.
    middle: Next<'n>,
    /// What entered them.
    fronted: &'r Streams,
    /// What the forecast starts from.
    base: &'r Streams,
    guess: Streams,
}

/// What a pass that was computed is learned from.
struct Lesson<'l> {
    key: SlotKey,
    last: Last,
    basis: &'l Basis,
    /// Its place in the log.
    place: usize,
    /// Text is read behind the blocks.
    text: bool,
}

/// What a pass can be rebuilt from.
enum Basis {
    /// The input of the range, or the conditional branch's output.
    From(Output),
    /// The conditional branch has not run at this step.
    NoLeader,
    /// This is the branch that others are rebuilt from.
    Leads,
}

impl CacheHook {
    /// `forecast` is the table's; without one, the strategy's own.
    pub fn new(
        id: HookId,
        cache: Box<dyn AnyCache>,
        forecast: Option<Arc<dyn ForecastConfig>>,
        guards: Guards,
    ) -> Self {
        Self { id, cache, forecast, guards }
    }

    fn key(&self, cx: &Cx<'_>, blocks: Range<usize>) -> SlotKey {
        SlotKey { hook: self.id, blocks, expert: cx.step.expert, branch: cx.branch, eval: cx.step.eval }
    }

    fn log(&self, cx: &mut Cx<'_>, blocks: Range<usize>, verdict: Verdict) -> usize {
        let bytes = cx.slots.bytes();
        cx.log.push(Record {
            step: cx.step.index,
            eval: cx.step.eval,
            expert: cx.step.expert,
            branch: cx.branch,
            hook: self.id,
            blocks,
            module: cx.module.cloned(),
            reused: verdict.reuse,
            why: verdict.why,
            metric: verdict.metric,
            accumulated: verdict.accumulated,
            audit: None,
            bytes,
        })
    }

    /// What the audits of a slot add up to.
    fn drift(&self, cx: &Cx<'_>, blocks: &Range<usize>) -> Drift {
        let here = |r: &&Record| {
            (r.hook, r.branch, r.expert, r.eval) == (self.id, cx.branch, cx.step.expert, cx.step.eval)
                && r.blocks == *blocks
                && r.module.as_ref() == cx.module
        };
        Drift::of(cx.log.records().iter().filter(here), cx.audit, self.guards.max_skips)
    }

    /// Whether the reuse with this number of its slot is audited.
    fn is_due(&self, cx: &Cx<'_>, turn: usize, blocks: &Range<usize>) -> bool {
        if self.guards.follows(cx.branch) {
            let leader = cx.log.decision(self.id, blocks, cx.step, Branch::Cond);
            leader.is_some_and(|leader| leader.audit.is_some())
        } else {
            cx.audit.is_due(turn)
        }
    }

    /// Runs the blocks beside a reuse that is audited. What they give and the error, where that passes the drift budget.
    fn check(&self, cx: &mut Cx<'_>, reuse: &Reuse<'_, '_>) -> Result<Option<(Streams, Audit)>> {
        let Reuse { place, middle, fronted, base, guess, .. } = reuse;
        let blocks = middle.blocks();
        let truth = middle.clone().bare().run(cx, (*fronted).clone())?.streams;
        let audit = Audit::of(cx, base, guess, &truth)?;
        cx.log.audited(*place, audit);
        Ok(self.drift(cx, &blocks).passed.then_some((truth, audit)))
    }

    fn basis(&self, cx: &Cx<'_>, key: &SlotKey, fronted: &Streams) -> Basis {
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

    /// What to do at this step and, where it is to be replaced, with what. Once decided, a step stays decided.
    fn decide(
        &self,
        cx: &Cx<'_>,
        slot: &mut Slot,
        head: &Head<'_>,
        blocks: &Range<usize>,
    ) -> Result<(Last, Option<Streams>)> {
        let kind = head.fronted.kind()?;
        let changed = slot.kind.replace(kind.clone()).is_some_and(|before| before != kind);
        if changed {
            slot.reset();
            slot.kind = Some(kind);
        }
        let predict = |slot: &Slot| match &slot.forecast {
            Some(made) => made.forecast.predict(cx.step.index, head.fronted),
            None => Ok(None),
        };
        if let Some(last) = slot.last.filter(|last| last.step == cx.step.index) {
            let guess = if last.verdict.reuse && last.overruled.is_none() { predict(slot)? } else { None };
            return Ok((last, guess));
        }
        let mut verdict = self.verdict(cx, slot, head, blocks, changed)?;
        let guess = if verdict.reuse { predict(slot)? } else { None };
        if verdict.reuse && guess.is_none() {
            verdict = verdict.overruled(Why::NoHistory);
        }
        let turn = slot.turn;
        let (step, overruled, observed, learned) = (cx.step.index, None, false, false);
        let last = Last { step, verdict, turn, overruled, observed, learned };
        slot.last = Some(last);
        Ok((last, guess))
    }

    /// What to do, before it is known whether the forecast can do it.
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

    /// Audits a reuse: the guess stands in, or the truth where that passes the drift budget.
    fn audited(&self, cx: &mut Cx<'_>, reuse: Reuse<'_, '_>, basis: &Basis) -> Result<Output> {
        let checked = self.check(cx, &reuse)?;
        let Reuse { key, last, place, middle, guess, .. } = reuse;
        if let Some((truth, audit)) = checked {
            cx.log.overrule(place, Why::DriftBudget);
            let last = Last { overruled: Some(audit), ..last };
            let out = Output { streams: truth, exact: true };
            let lesson = Lesson { key: key.clone(), last, basis, place, text: middle.text_is_read() };
            self.computed(cx, lesson, &out)?;
            return Ok(out);
        }
        let mut slot = Slot::open(cx, key);
        slot.skips(last);
        slot.put(cx, key.clone());
        Ok(Output { streams: guess, exact: false })
    }

    /// Puts what a pass that was computed leaves behind into its slot.
    fn computed(&self, cx: &mut Cx<'_>, lesson: Lesson<'_>, out: &Output) -> Result<()> {
        let Lesson { key, last, basis, place, text } = lesson;
        let mut slot = Slot::open(cx, &key);
        slot.history.consecutive = 0;
        if last.overruled.is_some() {
            slot.turn = last.turn + 1;
            slot.last = slot.last.map(|own| Last { overruled: last.overruled, ..own });
        }
        let sound = match basis {
            Basis::Leads => slot.leads(cx.step.index, out),
            // What an inner cache guessed is not a fact to learn from.
            Basis::From(base) if base.exact && out.exact => {
                self.learn(cx, &mut slot, &base.streams, &out.streams, text)
            }
            _ => Ok(true),
        };
        slot.put(cx, key);
        if !sound? {
            cx.log.amend(place, Why::FailsafeNonFinite);
        }
        Ok(())
    }

    /// What has not been learned yet. An error leaves the rest to a pass that is run again.
    fn learn(&self, cx: &Cx<'_>, slot: &mut Slot, x: &Streams, y: &Streams, text: bool) -> Result<bool> {
        let Some(mut last) = slot.last.filter(|last| !last.learned) else { return Ok(true) };
        if !(y.is_finite_on_host()? && x.is_finite_on_host()?) {
            slot.reset();
            slot.last = Some(Last { observed: true, learned: true, ..last });
            return Ok(false);
        }
        if !last.observed {
            let forecast = &mut slot.forecast.get_or_insert_with(|| self.make_forecast(cx.step)).forecast;
            if text {
                forecast.observe(cx.step.index, x, y, cx.storage)?;
            } else {
                forecast.observe(cx.step.index, &x.without_text()?, &y.without_text()?, cx.storage)?;
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
    fn make_forecast(&self, step: &Step) -> Made {
        let forecast = match &self.forecast {
            Some(config) => config.build(),
            None => self.cache.any_forecast(step),
        };
        Made { at: step.clone(), forecast }
    }
}

impl BlockHook for CacheHook {
    fn call(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> Result<Output> {
        let Window { front, back } = self.cache.any_window();
        let kept = next.blocks().len().saturating_sub(front.saturating_add(back));
        if next.is_forced() || kept == 0 {
            let why = if next.is_forced() { Why::Forced } else { Why::Window };
            self.log(cx, next.blocks(), Verdict::compute(why));
            return next.run(cx, x);
        }
        // What the model shows is about block 0.
        let probe = cx.probe.filter(|_| next.blocks().start == 0);
        let (front, rest) = next.split_at(front);
        let (middle, back) = rest.split_at(kept);
        let blocks = middle.blocks();

        let fronted = front.forced().run(cx, x.clone())?.streams.added()?;
        let key = self.key(cx, blocks.clone());
        let basis = self.basis(cx, &key, &fronted);
        let mut slot = Slot::open(cx, &key);
        let decided = match &basis {
            Basis::From(base) => {
                let (input, fronted, history) = (&x, &base.streams, slot.history);
                let head = Head { input, fronted, history, probe, reducer: cx.reducer };
                self.decide(cx, &mut slot, &head, &blocks)
            }
            Basis::NoLeader => Ok((Last::computes(cx.step, Why::NoLeader), None)),
            Basis::Leads => Ok((Last::computes(cx.step, Why::Leads), None)),
        };
        let decided = decided.map(|(last, guess)| (last, guess, self.log(cx, blocks, last.shown())));
        let due = matches!(&decided, Ok((last, Some(_), _)) if self.is_due(cx, last.turn, &middle.blocks()));
        match &decided {
            Ok((last, Some(_), _)) if !due => {
                slot.skips(*last);
                slot.put(cx, key.clone());
            }
            // Whatever happens from here on, what was decided is there when the pass is run again.
            _ => slot.set_aside(cx, key.clone()),
        }
        let (last, guess, place) = decided?;
        drop(x);

        let out = match (guess, &basis) {
            (Some(guess), _) if !due => {
                middle.skip(cx);
                Output { streams: guess, exact: false }
            }
            (Some(guess), Basis::From(base)) => {
                middle.clone().skip(cx);
                let (fronted, base) = (&fronted, &base.streams);
                self.audited(cx, Reuse { key: &key, last, place, middle, fronted, base, guess }, &basis)?
            }
            _ => {
                let text = middle.text_is_read();
                let out = match last.overruled {
                    Some(audit) => {
                        cx.log.audited(place, audit);
                        middle.clone().skip(cx);
                        middle.bare().run(cx, fronted)?
                    }
                    None => middle.run(cx, fronted)?,
                };
                self.computed(cx, Lesson { key, last, basis: &basis, place, text }, &out)?;
                out
            }
        };
        let after = back.forced().run(cx, out.streams)?;
        Ok(Output { streams: after.streams, exact: out.exact && after.exact })
    }

    fn skipped(&self, cx: &mut Cx<'_>, blocks: Range<usize>) {
        self.log(cx, blocks, Verdict::reuse(Why::OuterCache));
    }

    fn is_static(&self) -> bool {
        self.cache.any_static()
    }

    fn threshold(&self, step: &Step) -> Option<f64> {
        self.cache.any_threshold(step)
    }

    fn stand_in(&self, step: &Step) -> Option<ForecastTable> {
        let from_input = self.cache.any_base() == Base::Input;
        from_input.then(|| self.make_forecast(step).forecast.table()).flatten()
    }

    fn save_slot(
        &self,
        key: &SlotKey,
        slot: &dyn Any,
        to: &mut Writer<'_>,
    ) -> std::result::Result<(), SnapshotError> {
        let Some(Slot { state, forecast, history, turn, kind, lead, last }) = slot.downcast_ref() else {
            return Err(SnapshotError::Refused { hook: key.hook, name: "a slot of another hook".to_owned() });
        };
        to.optional("state", state.as_deref());
        to.optional("forecast", forecast.as_ref());
        to.field("history", history);
        to.field("turn", turn);
        to.field("kind", kind);
        to.field("lead", lead);
        to.field("last", last);
        Ok(())
    }

    fn load_slot(
        &self,
        _: &SlotKey,
        from: &Reader<'_>,
    ) -> std::result::Result<Box<dyn Any + Send>, SnapshotError> {
        let state = from.optional("state")?.map(|from| {
            let mut state = self.cache.any_state();
            state.load(&from).map(|()| state)
        });
        let forecast = from.optional("forecast")?.map(|from| {
            let mut made = self.make_forecast(&from.field("at")?);
            made.load(&from).map(|()| made)
        });
        Ok(Box::new(Slot {
            state: state.transpose()?,
            forecast: forecast.transpose()?,
            history: from.field("history")?,
            turn: from.field("turn")?,
            kind: from.field("kind")?,
            lead: from.field("lead")?,
            last: from.field("last")?,
        }))
    }
}
