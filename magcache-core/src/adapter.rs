//! The one adapter between a strategy and the chain: it runs, substitutes and stores.

use std::{any::Any, ops::Range, sync::Arc};

use candle_core::Result;

use crate::{
    AnyCache, AnyState, Audit, Base, BlockHook, Branch, Cx, Forecast, ForecastConfig, Guards, Head, HookId,
    Next, Output, Persist, Reader, Record, SlotKey, SnapshotError, Step, Streams, Verdict, Why, Window,
    Writer, audit::Drift, cache::History, metrics, streams::Kind,
};

/// A strategy and a forecast as a hook.
///
/// Learns only from passes in which every block of its range really ran: what an inner cache guessed is never
/// recorded. Blocks are replaced here and nowhere else. With [`Base::Leader`] a branch learns how it differs from
/// the conditional one, from steps at which both really ran.
#[derive(Debug)]
pub struct CacheHook {
    id: HookId,
    cache: Box<dyn AnyCache>,
    forecast: Option<Arc<dyn ForecastConfig>>,
    guards: Guards,
    keep_text: bool,
}

#[derive(Default)]
struct Slot {
    state: Option<Box<dyn AnyState>>,
    forecast: Option<Made>,
    history: History,
    /// Reuses decided so far, by which they are audited.
    turn: usize,
    kind: Option<Kind>,
    lead: Option<Lead>,
}

/// A forecast, and the step that it was made at: what it takes to make it again.
struct Made {
    at: Step,
    forecast: Box<dyn Forecast>,
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
}

/// What the conditional branch gave at a step.
struct Lead {
    step: usize,
    out: Output,
}

crate::fields!(Lead { step, out });

/// A reuse that was decided and logged.
struct Reuse<'r, 'n> {
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

/// What comes out of a reuse.
enum Reused {
    Guess(Streams),
    Truth(Streams),
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
    /// `forecast` is the table's; without one, the strategy's own. `keep_text` false leaves the text stream out of
    /// what is stored: for a range behind which nothing reads it.
    pub fn new(
        id: HookId,
        cache: Box<dyn AnyCache>,
        forecast: Option<Arc<dyn ForecastConfig>>,
        guards: Guards,
        keep_text: bool,
    ) -> Self {
        Self { id, cache, forecast, guards, keep_text }
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

    /// Runs the blocks beside a reuse that is audited, and puts what they give in its place where that passes the drift budget.
    fn check(&self, cx: &mut Cx<'_>, turn: usize, reuse: Reuse<'_, '_>) -> Result<Reused> {
        let Reuse { place, middle, fronted, base, guess } = reuse;
        let blocks = middle.blocks();
        let due = if self.guards.follows(cx.branch) {
            let leader = cx.log.decision(self.id, &blocks, cx.step, Branch::Cond);
            leader.is_some_and(|leader| leader.audit.is_some())
        } else {
            cx.audit.is_due(turn)
        };
        if !due {
            return Ok(Reused::Guess(guess));
        }
        let truth = middle.bare().run(cx, fronted.clone())?.streams;
        let audit = Audit::of(cx, base, &guess, &truth)?;
        cx.log.audited(place, audit);
        if !self.drift(cx, &blocks).passed {
            return Ok(Reused::Guess(guess));
        }
        cx.log.overrule(place, Why::DriftBudget);
        Ok(Reused::Truth(truth))
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

    /// What to do, before it is known whether the forecast can do it.
    fn decide(
        &self,
        cx: &Cx<'_>,
        slot: &mut Slot,
        blocks: &Range<usize>,
        x: &Streams,
        fronted: &Streams,
    ) -> Result<Verdict> {
        let kind = fronted.kind();
        let changed = slot.kind.replace(kind.clone()).is_some_and(|before| before != kind);
        if changed {
            *slot = Slot { kind: Some(kind), ..Slot::default() };
        }
        let verdict = if self.guards.follows(cx.branch) {
            match cx.log.decision(self.id, blocks, cx.step, Branch::Cond) {
                Some(leader) if leader.reused => Verdict::reuse(Why::Followed),
                Some(_) => Verdict::compute(Why::Followed),
                None => Verdict::compute(Why::NoLeader),
            }
        } else {
            let history = slot.history;
            let head = Head { input: x, fronted, history, probe: cx.probe, reducer: cx.reducer };
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

    /// What a pass that was computed leaves behind.
    fn computed(
        &self,
        cx: &mut Cx<'_>,
        slot: &mut Slot,
        basis: &Basis,
        place: usize,
        out: &Output,
    ) -> Result<()> {
        slot.history.consecutive = 0;
        let sound = match basis {
            Basis::Leads => slot.leads(cx.step.index, out)?,
            // What an inner cache guessed is not a fact to learn from.
            Basis::From(base) if base.exact && out.exact => {
                self.learn(cx, slot, &base.streams, &out.streams)?
            }
            _ => true,
        };
        if !sound {
            cx.log.amend(place, Why::FailsafeNonFinite);
        }
        Ok(())
    }

    fn learn(&self, cx: &Cx<'_>, slot: &mut Slot, x: &Streams, y: &Streams) -> Result<bool> {
        if !is_finite(y)? {
            slot.reset();
            return Ok(false);
        }
        let forecast = &mut slot.forecast.get_or_insert_with(|| self.make_forecast(cx.step)).forecast;
        if self.keep_text {
            forecast.observe(cx.step.index, x, y, cx.storage)?;
        } else {
            forecast.observe(cx.step.index, &x.without_text()?, &y.without_text()?, cx.storage)?;
        }
        if let Some(state) = &mut slot.state {
            self.cache.any_tail(state.as_mut(), cx.step, cx.branch, x, y)?;
        }
        slot.history.last_computed = Some(cx.step.index);
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

/// False when a stream holds a NaN or an infinity.
fn is_finite(y: &Streams) -> Result<bool> {
    for tensor in y.tensors() {
        if !metrics::is_finite_on_host(tensor)? {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Slot {
    fn bytes(&self) -> usize {
        let state = self.state.as_ref().map_or(0, |state| state.any_bytes());
        let lead = self.lead.as_ref().map_or(0, |lead| lead.out.streams.bytes());
        state + lead + self.forecast.as_ref().map_or(0, |made| made.forecast.bytes())
    }

    /// Keeps the output of a conditional pass for the branches behind it; `false` where it cannot be used.
    fn leads(&mut self, step: usize, out: &Output) -> Result<bool> {
        let usable = is_finite(&out.streams)?;
        self.lead = usable.then(|| Lead { step, out: out.clone() });
        Ok(usable)
    }

    fn reset(&mut self) {
        let (skipped, turn) = (self.history.skipped, self.turn);
        *self = Self { history: History { skipped, ..History::default() }, turn, ..Self::default() };
    }
}

impl BlockHook for CacheHook {
    fn call(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> Result<Output> {
        let Window { front, back } = self.cache.any_window();
        let kept = next.blocks().len().saturating_sub(front.saturating_add(back));
        if next.is_forced() || kept == 0 {
            self.log(cx, next.blocks(), Verdict::compute(Why::Forced));
            return next.run(cx, x);
        }
        let (front, rest) = next.split_at(front);
        let (middle, back) = rest.split_at(kept);
        let blocks = middle.blocks();

        let fronted = front.forced().run(cx, x.clone())?.streams.added()?;
        let key = self.key(cx, blocks.clone());
        let mut slot: Slot = cx.slots.take(&key);
        let basis = self.basis(cx, &key, &fronted);
        let mut verdict = match &basis {
            Basis::From(base) => self.decide(cx, &mut slot, &blocks, &x, &base.streams)?,
            Basis::NoLeader => Verdict::compute(Why::NoLeader),
            Basis::Leads => Verdict::compute(Why::Leads),
        };
        drop(x);
        let guess = match (&slot.forecast, &basis, verdict.reuse) {
            (Some(made), Basis::From(base), true) => made.forecast.predict(cx.step.index, &base.streams)?,
            _ => None,
        };
        if verdict.reuse && guess.is_none() {
            verdict = verdict.overruled(Why::NoHistory);
        }
        let place = self.log(cx, blocks, verdict);

        let out = if let (Some(guess), Basis::From(base)) = (guess, &basis) {
            middle.clone().skip(cx);
            let reuse = Reuse { place, middle, fronted: &fronted, base: &base.streams, guess };
            let reused = self.check(cx, slot.turn, reuse)?;
            slot.turn += 1;
            match reused {
                Reused::Guess(streams) => {
                    slot.history.consecutive += 1;
                    slot.history.skipped += 1;
                    Output { streams, exact: false }
                }
                Reused::Truth(streams) => {
                    let out = Output { streams, exact: true };
                    self.computed(cx, &mut slot, &basis, place, &out)?;
                    out
                }
            }
        } else {
            let out = middle.run(cx, fronted)?;
            self.computed(cx, &mut slot, &basis, place, &out)?;
            out
        };
        let bytes = slot.bytes();
        cx.slots.put(key, slot, bytes);
        let after = back.forced().run(cx, out.streams)?;
        Ok(Output { streams: after.streams, exact: out.exact && after.exact })
    }

    fn skipped(&self, cx: &mut Cx<'_>, blocks: Range<usize>) {
        self.log(cx, blocks, Verdict::reuse(Why::OuterCache));
    }

    fn is_static(&self) -> bool {
        self.cache.any_static()
    }

    fn save_slot(
        &self,
        key: &SlotKey,
        slot: &dyn Any,
        to: &mut Writer<'_>,
    ) -> std::result::Result<(), SnapshotError> {
        let Some(Slot { state, forecast, history, turn, kind, lead }) = slot.downcast_ref() else {
            return Err(SnapshotError::Refused { hook: key.hook, name: "a slot of another hook".to_owned() });
        };
        to.optional("state", state.as_deref());
        to.optional("forecast", forecast.as_ref());
        to.field("history", history);
        to.field("turn", turn);
        to.field("kind", kind);
        to.field("lead", lead);
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
        }))
    }
}
