//! `strategy = "interval"`: computes every k-th step of an expert's phase and replaces the others.
//!
//! The guide `docs/guide/add-a-strategy.md` walks through this file.

use candle_core::Result;
use magcache_core::{
    Branch, BuildCx, CacheConfig, ConfigError, Guards, Head, Level, Problem, Step, Strategy, StrategyInfo,
    TimestepCache, Verdict, Why, inventory, keys::keys_of, schemars, typetag,
};
use serde::{Deserialize, Serialize};

/// The keys of the table.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IntervalConfig {
    /// Compute the first of so many steps.
    #[schemars(range(min = 1))]
    pub every: usize,
}

/// The strategy.
#[derive(Clone, Copy, Debug)]
pub struct Interval {
    every: usize,
}

impl TimestepCache for Interval {
    type State = ();

    fn is_static(&self) -> bool {
        true
    }

    fn head(&self, (): &mut (), step: &Step, _: Branch, _: &Head<'_>) -> Result<Verdict> {
        let place = step.index - step.phase.start;
        let compute = place.is_multiple_of(self.every);
        Ok(if compute { Verdict::compute(Why::Scheduled) } else { Verdict::reuse(Why::Scheduled) })
    }
}

#[typetag::serde(name = "interval")]
impl CacheConfig for IntervalConfig {
    fn validate(&self, cx: &BuildCx<'_>) -> Vec<Problem> {
        match self.every {
            0 => vec![Problem::error(cx.place, "`every` is 0, it must be at least 1")],
            1 => vec![Problem::warning(cx.place, "`every` is 1: nothing will be skipped")],
            _ => Vec::new(),
        }
    }

    fn build(&self, cx: &BuildCx<'_>) -> std::result::Result<Strategy, ConfigError> {
        Ok(Strategy::cache(Interval { every: self.every }, cx.guards(Guards::default())))
    }
}

inventory::submit! {
    StrategyInfo {
        name: "interval",
        summary: "computes every k-th step",
        paper: "-",
        level: Level::Blocks,
        example: "strategy = \"interval\"\nevery = 3",
        never: "strategy = \"interval\"\nevery = 1",
        keys: keys_of::<IntervalConfig>,
        origin: env!("CARGO_PKG_NAME"),
    }
}

/// Keeps this crate, and so its registration, in a binary that names nothing else of it.
pub fn link() {}
