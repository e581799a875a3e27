//! The one adapter between a strategy and the chain: it runs, substitutes and stores.

use std::{any::Any, ops::Range, sync::Arc};

use candle_core::Result;

use crate::{
    AnyCache, AnyState, Base, BlockHook, Branch, Cx, Forecast, ForecastConfig, Guards, Head, HookId, Next,
    Output, Persist, Reader, Record, SlotKey, SnapshotError, Step, Streams, Verdict, Why, Window, Writer,
    cache::History, metrics, streams::Kind,
};

/// A strategy and a forecast as a hook.
///
/// Learns only from passes in which every block of its range really ran: what an inner cache guessed is never
/// recorded. The residual is applied here and nowhere else. With [`Base::Leader`] a branch learns how it differs from
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
            bytes,
        })
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
            None => verdict,
        })
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
        let skipped = self.history.skipped;
        *self = Self { history: History { skipped, ..History::default() }, ..Self::default() };
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

        let fronted = front.forced().run(cx, x.clone())?.streams;
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
        let record = self.log(cx, blocks, verdict);

        let out = if let Some(streams) = guess {
            middle.skip(cx);
            slot.history.consecutive += 1;
            slot.history.skipped += 1;
            Output { streams, exact: false }
        } else {
            let out = middle.run(cx, fronted)?;
            slot.history.consecutive = 0;
            let sound = match &basis {
                Basis::Leads => slot.leads(cx.step.index, &out)?,
                // What an inner cache guessed is not a fact to learn from.
                Basis::From(base) if base.exact && out.exact => {
                    self.learn(cx, &mut slot, &base.streams, &out.streams)?
                }
                _ => true,
            };
            if !sound {
                cx.log.amend(record, Why::FailsafeNonFinite);
            }
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
        let Some(Slot { state, forecast, history, kind, lead }) = slot.downcast_ref() else {
            return Err(SnapshotError::Refused { hook: key.hook, name: "a slot of another hook".to_owned() });
        };
        to.optional("state", state.as_deref());
        to.optional("forecast", forecast.as_ref());
        to.field("history", history);
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
            kind: from.field("kind")?,
            lead: from.field("lead")?,
        }))
    }
}
