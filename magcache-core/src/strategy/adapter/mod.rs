//! The only adapter between a strategy and the chain: it runs, replaces and stores.

mod decide;
mod learn;
mod slot;

use std::{any::Any, ops::Range, sync::Arc};

use candle_core::Result;

use self::{
    decide::{Basis, entered},
    learn::{Lesson, Reuse},
    slot::{Last, Slot},
};
use crate::{
    BlockHook, Cx, Guards, Head, Next, Output, Step, Streams, Verdict, Why, Window,
    chain::LazyOutput,
    forecast::{ForecastConfig, ForecastTable},
    log::Record,
    snapshot::{Persist, Reader, SnapshotError, Writer},
    state::{HookId, SlotKey},
    strategy::{AnyCache, Base},
};

/// A strategy and a forecast as a hook.
///
/// Learns only from passes in which every block of its range really ran: the guesses of inner caches are
/// never recorded. Only this hook replaces blocks on behalf of strategies. With [`Base::Leader`] a branch
/// learns its difference from the conditional branch, from steps at which both really ran.
///
/// A slot remembers the decision of its last step and what was learned since, so that a retry of the pass
/// repeats the decision and learns only what is missing.
#[derive(Debug)]
pub struct CacheHook {
    id: HookId,
    cache: Box<dyn AnyCache>,
    forecast: Option<Arc<dyn ForecastConfig>>,
    guards: Guards,
}

impl CacheHook {
    /// `forecast` is that of the table; `None` means the strategy's own.
    pub fn new(
        id: HookId,
        cache: Box<dyn AnyCache>,
        forecast: Option<Arc<dyn ForecastConfig>>,
        guards: Guards,
    ) -> Self {
        Self { id, cache, forecast, guards }
    }

    /// The blocks that always run: those of the strategy, and those that the forecast looks at.
    fn window(&self) -> Window {
        let Window { front, back } = self.cache.any_window();
        let looks_at = self.forecast.as_ref().map_or(0, |forecast| forecast.front());
        Window { front: front.max(looks_at), back }
    }

    fn key(&self, cx: &Cx<'_>, blocks: Range<usize>) -> SlotKey {
        SlotKey { hook: self.id, blocks, expert: cx.step.expert, branch: cx.branch, eval: cx.step.eval }
    }

    fn log(&self, cx: &mut Cx<'_>, blocks: Range<usize>, verdict: Verdict) -> usize {
        let bytes = cx.slots.bytes();
        cx.log.push(Record {
            step: cx.step.place(),
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
}

impl BlockHook for CacheHook {
    fn call(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> Result<Output> {
        self.call_lazy(cx, x, next)?.added()
    }

    fn call_lazy(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> Result<LazyOutput> {
        let Window { front, back } = self.window();
        let kept = next.blocks().len().saturating_sub(front.saturating_add(back));
        if next.is_forced() || kept == 0 {
            let why = if next.is_forced() { Why::Forced } else { Why::Window };
            self.log(cx, next.blocks(), Verdict::compute(why));
            return next.run_lazy(cx, x);
        }
        // The model's signals describe block 0.
        let probe = cx.probe.filter(|_| next.blocks().start == 0);
        let (front, rest) = next.split_at(front);
        let (middle, back) = rest.split_at(kept);
        let blocks = middle.blocks();

        let fronted = front.forced().run(cx, x.clone())?.streams;
        let key = self.key(cx, blocks.clone());
        self.hear(cx, &blocks)?;
        let basis = self.basis(cx, &key, &fronted);
        // Nobody else needs the input while the blocks run.
        let needs_input = self.make_forecast(cx.step).forecast.needs_input();
        let input = if needs_input { x.clone() } else { fronted.clone() };
        let mut slot = Slot::open(cx, &key);
        let decided = match &basis {
            Basis::From(base) => {
                let (input, fronted, history) = (&x, &base.streams, slot.history);
                let head = Head { input, fronted, history, grid: cx.grid, probe, together: cx.together() };
                self.decide(cx, &mut slot, &head, &blocks)
            }
            Basis::NoLeader => Ok((Last::computes(cx.step, Why::NoLeader), None)),
            Basis::Leads => Ok((Last::computes(cx.step, Why::Leads), None)),
        };
        // All ranks decided alike, or none acts.
        let decided = decided.and_then(|(last, guess)| {
            cx.together().agree(&last.shown(), cx.log)?;
            Ok((last, guess, self.log(cx, blocks, last.shown())))
        });
        let due = matches!(&decided, Ok((last, Some(_), _)) if self.is_due(cx, last.turn, &middle.blocks()));
        let kept = match &decided {
            Ok((last, Some(guess), _)) if !due => {
                slot.skips(*last);
                let told = match &basis {
                    Basis::From(base) => {
                        slot.told(&entered(cx, &input, &base.streams), &guess.streams, cx.storage)
                    }
                    _ => Ok(()),
                };
                slot.put(cx, key.clone()).and(told)
            }
            // Keep the decision for a retry, whatever happens from here on.
            _ => slot.set_aside(cx, key.clone()),
        };
        let (last, guess, place) = decided?;
        kept?;
        if !due {
            self.tell(cx, place)?;
        }
        drop(x);

        let out = match (guess, &basis) {
            (Some(guess), _) if !due => {
                middle.skip(cx);
                guess
            }
            (Some(guess), Basis::From(base)) => {
                middle.clone().skip(cx);
                let (fronted, base, guess) = (&fronted, &base.streams, guess.added()?.streams);
                let out = self.audited(
                    cx,
                    Reuse { key: &key, last, place, middle, input: &input, fronted, base, guess },
                    &basis,
                )?;
                self.tell(cx, place)?;
                out
            }
            _ => {
                let text = middle.text_is_read();
                let out = match last.overruled {
                    Some(audit) => {
                        cx.log.audited(place, audit);
                        middle.clone().skip(cx);
                        middle.bare().run_lazy(cx, fronted)?
                    }
                    None => middle.run_lazy(cx, fronted)?,
                };
                self.computed(cx, Lesson { key, last, input: &input, basis: &basis, place, text }, &out)?;
                out
            }
        };
        if back.blocks().is_empty() { Ok(out) } else { out.then(|x| back.forced().run_lazy(cx, x)) }
    }

    fn skipped(&self, cx: &mut Cx<'_>, blocks: Range<usize>) {
        self.log(cx, blocks, Verdict::reuse(Why::OuterCache));
    }

    fn rebuilds_branches(&self) -> bool {
        self.cache.any_base() == Base::Leader
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
            return Err(SnapshotError::Refused {
                hook: key.hook.0,
                name: "a slot of another hook".to_owned(),
            });
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
