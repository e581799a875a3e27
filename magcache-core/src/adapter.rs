//! The one adapter between a strategy and the chain: it runs, substitutes and stores.

use std::{any::Any, ops::Range, sync::Arc};

use candle_core::Result;

use crate::{
    AnyCache, BlockHook, Branch, Cx, Forecast, ForecastConfig, Guards, Head, HookId, Next, Output, Record,
    SlotKey, Streams, Verdict, Why, Window, cache::History, metrics, streams::Kind,
};

/// A strategy and a forecast as a hook.
///
/// Learns only from passes in which every block of its range really ran: what an inner cache guessed is never
/// recorded. The residual is applied here and nowhere else.
#[derive(Debug)]
pub struct CacheHook {
    id: HookId,
    cache: Box<dyn AnyCache>,
    forecast: Arc<dyn ForecastConfig>,
    guards: Guards,
    keep_text: bool,
}

#[derive(Default)]
struct Slot {
    state: Option<Box<dyn Any + Send>>,
    forecast: Option<Box<dyn Forecast>>,
    history: History,
    kind: Option<Kind>,
}

impl CacheHook {
    /// `keep_text` false leaves the text stream out of what is stored: for a range behind which nothing reads it.
    pub fn new(
        id: HookId,
        cache: Box<dyn AnyCache>,
        forecast: Arc<dyn ForecastConfig>,
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
            reused: verdict.reuse,
            why: verdict.why,
            metric: verdict.metric,
            accumulated: verdict.accumulated,
            bytes,
        })
    }

    /// What to do, before it is known whether the forecast can do it.
    fn decide(&self, cx: &Cx<'_>, slot: &mut Slot, x: &Streams, fronted: &Streams) -> Result<Verdict> {
        let kind = fronted.kind();
        let changed = slot.kind.replace(kind.clone()).is_some_and(|before| before != kind);
        if changed {
            *slot = Slot { kind: Some(kind), ..Slot::default() };
        }
        let verdict = if self.guards.follows(cx.branch) {
            match cx.log.decision(self.id, cx.step, Branch::Cond) {
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
        for tensor in y.tensors() {
            if !metrics::is_finite_on_host(tensor)? {
                slot.reset();
                return Ok(false);
            }
        }
        let forecast = slot.forecast.get_or_insert_with(|| self.forecast.build());
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

    fn bytes(&self, slot: &Slot) -> usize {
        let state = slot.state.as_ref().map_or(0, |state| self.cache.any_bytes(state.as_ref()));
        state + slot.forecast.as_ref().map_or(0, |forecast| forecast.bytes())
    }
}

impl Slot {
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
        let mut verdict = self.decide(cx, &mut slot, &x, &fronted)?;
        drop(x);
        let guess = match (&slot.forecast, verdict.reuse) {
            (Some(forecast), true) => forecast.predict(cx.step.index, &fronted)?,
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
            let out = middle.run(cx, fronted.clone())?;
            slot.history.consecutive = 0;
            // What an inner cache guessed is not a fact to learn from.
            if out.exact && !self.learn(cx, &mut slot, &fronted, &out.streams)? {
                cx.log.amend(record, Why::FailsafeNonFinite);
            }
            out
        };
        let bytes = self.bytes(&slot);
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
}
