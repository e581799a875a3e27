//! Runs every rule on every toy in one call.

use std::sync::Arc;

use super::{Calls, Inexact, Spy, SpyForecast, Toy, resume, retry, rules, state};
use crate::{
    Branch, BuildCx, CachePlan, ConfigError, Guards, HookRegistry, Level, Phase, Role, Session, Strategy,
    StrategyInfo, Trajectory,
    config::{CacheEntry, Given, Residuals},
    forecast::ForecastConfig,
    meta,
    state::HookId,
    strategy::{AnyCache, Base, Branches, CacheHook},
};

/// From this number of blocks on, a strategy's example must be accepted and must skip something.
const REAL: usize = 12;

/// Runs every rule that a strategy must keep, on toys of 1, 2 and 12 blocks, with one stream and with two.
///
/// # Panics
///
/// If a rule is broken, with the rule, the strategy and the toy.
pub fn conformance(info: &StrategyInfo) {
    rules::check_config(info);
    for toy in toys() {
        let bench = Bench::new(info, toy);
        rules::check_never(&bench);
        rules::check_guarded_steps(&bench);
        rules::check_reuse(&bench);
        rules::check_isolation(&bench);
        rules::check_error_recovers(&bench);
        rules::check_repeatable(&bench);
        rules::check_learning(&bench);
        resume::check_resume(&bench);
        retry::check_retry(&bench);
        state::check_state(&bench);
    }
}

/// [`conformance`] of the strategy registered under `name`.
///
/// # Panics
///
/// If a rule is broken, or if the name is not registered.
pub fn conformance_of(name: &str) {
    let known = meta::strategies();
    let Some(info) = known.iter().find(|s| s.name == name) else {
        let names: Vec<_> = known.iter().map(|s| s.name).collect();
        panic!("no strategy {name:?} is registered; there are {names:?}")
    };
    conformance(info);
}

/// The models that the rules are checked on.
pub fn toys() -> Vec<Toy> {
    let order = [Role::Text, Role::Image];
    vec![
        Toy::image(1),
        Toy::image(2),
        Toy::image(REAL),
        Toy::dual_joint(1, 0, order),
        Toy::dual_joint(1, 1, order),
        Toy::dual_joint(4, 8, order),
        Toy::dual_joint(4, 8, [Role::Image, Role::Text]),
    ]
}

/// A strategy on a toy.
#[derive(Debug)]
pub struct Bench<'a> {
    /// The strategy.
    pub info: &'a StrategyInfo,
    /// The model.
    pub toy: Toy,
    /// Twelve steps of two branches and one expert.
    pub trajectory: Trajectory,
}

impl<'a> Bench<'a> {
    /// A strategy on a toy.
    pub fn new(info: &'a StrategyInfo, toy: Toy) -> Self {
        Self { info, toy, trajectory: Trajectory::plain(12, &[Branch::Cond, Branch::Uncond]) }
    }

    /// The same steps shared by two experts.
    pub fn two_experts(&self) -> Trajectory {
        let experts = [0..5, 5..12].into_iter().zip(0..);
        let phases = experts.map(|(steps, expert)| Phase { expert: crate::Expert(expert), steps }).collect();
        self.trajectory.clone().with_phases(phases)
    }

    /// The table of the example, or of `never`, as the strategy's author wrote it.
    ///
    /// # Panics
    ///
    /// If it is not a TOML table.
    pub fn table(&self, text: &str) -> toml::Table {
        toml::from_str(text).unwrap_or_else(|e| panic!("{}: no table: {e}", self.place("example is TOML")))
    }

    /// A session with this table; `None` if `validate` refuses a toy for being smaller than real models.
    ///
    /// # Panics
    ///
    /// If the table is refused for another reason, or on a full-size toy.
    pub fn session(&self, table: toml::Table) -> Option<Session> {
        let built = CachePlan::from_tables(vec![table], Residuals::default())
            .and_then(|plan| plan.build(self.toy.meta(), Some(&self.trajectory)));
        match built {
            Ok(built) => Some(built.registry.session()),
            Err(ConfigError::Problems(_)) if !self.is_real() => None,
            Err(e) => panic!("{}: {e}", self.place("example is accepted")),
        }
    }

    /// A session whose strategy and forecast report to `calls`, with `inner` inside them; `None` if the
    /// strategy is a custom hook or is refused.
    ///
    /// # Panics
    ///
    /// As [`Bench::session`].
    pub fn spied(&self, calls: &Calls, inner: Inexact) -> Option<Session> {
        self.session(self.table(self.info.example))?;
        let (cache, guards) = self.cache()?;
        let spy = Box::new(Spy::new(cache, calls.clone()));
        let forecast: Arc<dyn ForecastConfig> = Arc::new(SpyForecast::new(calls.clone()));
        let hook = Arc::new(CacheHook::new(HookId(0), spy, Some(forecast), guards));
        let builder = HookRegistry::builder(self.toy.blocks());
        let whole = self.toy.meta().whole();
        let builder = if self.info.level == Level::Forward {
            Ok(builder.forward(hook).forward(Arc::new(inner)))
        } else {
            builder.ring(whole.clone(), hook).and_then(|b| b.ring(whole, Arc::new(inner)))
        };
        Some(builder.ok()?.build().session())
    }

    /// The strategy built from the example on this toy; `None` if it is refused.
    ///
    /// # Panics
    ///
    /// If the example is not a table of this strategy.
    pub fn strategy(&self) -> Option<Strategy> {
        let model = self.toy.meta();
        let entry = CacheEntry::from_table("example", self.table(self.info.example));
        let entry = entry.unwrap_or_else(|e| panic!("{}: {e}", self.place("example is accepted")));
        let cx = BuildCx {
            place: "example",
            id: HookId(0),
            model,
            range: if self.info.level == Level::Forward { 0..1 } else { model.whole() },
            trajectory: Some(&self.trajectory),
            words: &Given::new(&entry.words, None),
            experts: &[],
        };
        entry.config.build(&cx).ok()
    }

    /// The same as it runs in the adapter; `None` for a custom hook too.
    pub fn cache(&self) -> Option<(Box<dyn AnyCache>, Guards)> {
        self.strategy()?.on_tensors().ok()
    }

    /// The base of the example's forecast.
    pub fn base(&self) -> Base {
        self.cache().map_or(Base::Input, |(cache, _)| cache.any_base())
    }

    /// Whether the behaviour of one branch depends on another one at the same step.
    pub fn branches_meet(&self) -> bool {
        self.cache().is_some_and(|(cache, guards)| {
            cache.any_base() == Base::Leader || guards.branches == Branches::CondDecides
        })
    }

    /// The branch that the strategy decides for: the conditional one, or the one rebuilt from it.
    pub fn decided(&self) -> Branch {
        match self.base() {
            Base::Input => Branch::Cond,
            Base::Leader => Branch::Uncond,
        }
    }

    /// The branches that must run up to the decided one: the branch it is rebuilt from, if any, and itself.
    pub fn until_decided(&self) -> Vec<Branch> {
        match self.base() {
            Base::Input => vec![Branch::Cond],
            Base::Leader => vec![Branch::Cond, Branch::Uncond],
        }
    }

    /// Whether the toy has full size, so that something must be skipped.
    pub fn is_real(&self) -> bool {
        self.toy.blocks() >= REAL
    }

    /// `rule R, strategy S, toy T of N blocks`.
    pub fn place(&self, rule: &str) -> String {
        let model = self.toy.meta();
        format!("rule `{rule}`, strategy {:?}, {} of {} blocks", self.info.name, model.name, model.blocks())
    }
}
