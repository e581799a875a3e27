//! `strategy = "interval"`: computes every k-th step of an expert's phase and replaces the others.
//!
//! The guide `docs/guide/add-a-strategy.md` walks through this file.

use magcache_core::{
    BuildCx, CacheConfig, ConfigError, Guards, Level, Problem, Rule, Strategy, StrategyInfo, Verdict, Why,
    inventory, keys::keys_of, profile::Part, schemars, strategy::Seen, typetag,
};
use serde::{Deserialize, Serialize};

/// The name of the strategy, and of its kind of measurements in a profile: `[[part.interval]]`.
const NAME: &str = "interval";

/// What holds where neither the table nor the profile says anything.
const EVERY: usize = 3;

/// The keys of the table.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IntervalConfig {
    /// Compute the first of so many steps. Without it, as many as the profile says, else 3.
    #[schemars(range(min = 1), extend("target" = [1, 16]))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<usize>,
}

/// What a profile says for it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Measured {
    every: usize,
}

/// The strategy.
#[derive(Clone, Copy, Debug)]
pub struct Interval {
    every: usize,
}

impl Rule for Interval {
    fn decide(&self, seen: &Seen<'_>, _: &mut Option<f64>) -> Verdict {
        let compute = (seen.step.index - seen.step.phase.start).is_multiple_of(self.every);
        if compute { Verdict::compute(Why::Scheduled) } else { Verdict::reuse(Why::Scheduled) }
    }
}

impl IntervalConfig {
    /// The table's own number, else the profile's.
    fn every(&self, cx: &BuildCx<'_>) -> Result<usize, ConfigError> {
        let (None, Some(profile)) = (self.every, cx.words.profile()) else {
            return Ok(self.every.unwrap_or(EVERY));
        };
        let parts = profile.parts_of(NAME, cx.words.variant())?;
        let place = format!("profile {:?}, part.{NAME}", profile.name);
        let measured = parts.first().map(|part| part.read::<Measured>(&place)).transpose()?;
        Ok(measured.map_or(EVERY, |measured| measured.every))
    }
}

#[typetag::serde(name = "interval")]
impl CacheConfig for IntervalConfig {
    fn validate(&self, cx: &BuildCx<'_>) -> Vec<Problem> {
        match self.every(cx) {
            Ok(0) => vec![Problem::error(cx.place, "`every` is 0, it must be at least 1")],
            Ok(1) => vec![Problem::warning(cx.place, "`every` is 1: nothing will be skipped")],
            Ok(_) => Vec::new(),
            Err(error) => vec![Problem::error(cx.place, error.to_string())],
        }
    }

    fn reads(&self) -> Vec<Part> {
        if self.every.is_some() { Vec::new() } else { vec![Part::Own(NAME)] }
    }

    fn build(&self, cx: &BuildCx<'_>) -> Result<Strategy, ConfigError> {
        Ok(Strategy::rule(Interval { every: self.every(cx)? }, cx.guards(Guards::default())))
    }
}

inventory::submit! {
    StrategyInfo {
        name: NAME,
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
