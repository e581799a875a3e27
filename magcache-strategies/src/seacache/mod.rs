//! `SeaCache`: skips while a signal, filtered of what is noise at its noise level, has moved little
//! ("`SeaCache`: Spectral-Evolution-Aware Cache", arXiv 2602.18993).
//!
//! Distances are between consecutive steps, skipped and forced ones included, and are summed until a step is
//! computed. diffusers 0.42.1 looks at the latents, which every guidance branch shares; the scripts of the
//! authors look at the first block's modulated input and, on the steps that they always compute, leave it
//! unfiltered, so that the first distance after them is one between two kinds of signal: [`Dialect`].

mod filter;

use candle_core::{Result, Tensor};
use magcache_core::{
    Branch, BuildCx, CacheConfig, ConfigError, Guards, Head, Level, Problem, Signal, Step, Strategy,
    StrategyInfo, Streams, TimestepCache, Verdict, Warmup, Why,
    forecast::{Forecast, LastResidual},
    hint, inventory,
    keys::keys_of,
    profile::Part,
    typetag,
};
use serde::{Deserialize, Serialize};

pub use self::filter::{filtered, gains};
use crate::{
    published::published,
    taylor::{Taylor, TaylorConfig},
};

/// The name of the strategy, and of its settings in profiles: `[[part.seacache]]`.
const NAME: &str = "seacache";

/// Whose rule it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// Of diffusers: the latents; at most two skips in a row; a line through the last two computed residuals
    /// stands in.
    #[default]
    Diffusers,
    /// Of the script for `HunyuanVideo`: the first block's modulated input; the last residual stands in.
    Filtered,
    /// Of the scripts for Wan and FLUX: the same, unfiltered on steps that are always computed.
    Official,
}

/// The keys of `strategy = "seacache"`. What is not given comes from the table's profile, where that has it.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SeaCacheConfig {
    /// Bound of the summed distance; a larger one skips more. Without it what is published for the model and
    /// the dialect, else 0.25 for that of diffusers and 0.2 for the others.
    #[schemars(range(min = 0.0), extend("target" = [0, 4]))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// Whose rule it is. Without it the one that the profile has a threshold for, else `diffusers`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dialect: Option<Dialect>,
    /// How steeply a clean signal falls with its frequency. Without it what is published: 3 for videos, 2 for
    /// pictures.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power: Option<f64>,
}

/// What a profile has for it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Published {
    dialect: Dialect,
    /// The default first.
    thresholds: Vec<f64>,
}

/// The strategy.
#[derive(Clone, Copy, Debug)]
pub struct SeaCache {
    threshold: f64,
    dialect: Dialect,
    power: Option<f64>,
    guards: Guards,
}

/// What it remembers in one slot.
#[derive(Debug, Default)]
pub struct Seen {
    /// The signal of the step before.
    anchor: Option<Tensor>,
    accumulated: f64,
}

magcache_core::fields!(Seen { anchor, accumulated } given {});

impl SeaCache {
    fn signal(&self) -> Signal {
        match self.dialect {
            Dialect::Diffusers => Signal::Latents,
            Dialect::Filtered | Dialect::Official => Signal::ModulatedInput,
        }
    }

    /// The signal on its grid, and the dimensions of the grid in it.
    fn look(&self, x: &Head<'_>) -> Result<(Tensor, std::ops::Range<usize>)> {
        let signal = x.signal(self.signal())?;
        if self.signal() == Signal::Latents {
            let rank = signal.rank();
            return Ok((signal, 2..rank));
        }
        let signal = x.all_tokens(&signal)?;
        let (batch, tokens, channels) = signal.dims3()?;
        let own: usize = x.grid.iter().product();
        if x.grid.is_empty() || own > tokens {
            let message = format!("a grid of {:?} tokens was told for {tokens} tokens", x.grid);
            return Err(hint::tensor_error(message, "the model tells it with `Stacks::grid`"));
        }
        let dims: Vec<usize> = [&[batch], x.grid, &[channels]].concat();
        Ok((signal.narrow(1, 0, own)?.reshape(dims)?, 1..x.grid.len() + 1))
    }
}

impl TimestepCache for SeaCache {
    type State = Seen;

    fn forecast(&self, _: &Step) -> Box<dyn Forecast> {
        match self.dialect {
            Dialect::Diffusers => Box::new(Taylor::new(TaylorConfig::default())),
            Dialect::Filtered | Dialect::Official => Box::new(LastResidual::default()),
        }
    }

    fn uses_signals(&self) -> bool {
        true
    }

    fn threshold(&self, _: &Step) -> Option<f64> {
        Some(self.threshold)
    }

    fn head(&self, seen: &mut Seen, step: &Step, _: Branch, x: &Head<'_>) -> Result<Verdict> {
        let (signal, grid) = self.look(x)?;
        let power = self.power.unwrap_or(if grid.len() > 2 { 3.0 } else { 2.0 });
        let now = filtered(&signal, grid, step.sigma, power)?;
        let distance = seen.anchor.as_ref().map(|before| x.relative_l1(&now, before)).transpose()?;
        let unfiltered = self.dialect == Dialect::Official && self.guards.verdict(step, &x.history).is_some();
        seen.anchor = Some(if unfiltered { signal.to_dtype(now.dtype())? } else { now });
        let Some(distance) = distance else { return Ok(Verdict::compute(Why::NoHistory)) };
        seen.accumulated += distance;
        Ok(Verdict::below(seen.accumulated, self.threshold).metric(distance).accumulated(seen.accumulated))
    }

    fn tail(&self, seen: &mut Seen, _: &Step, _: Branch, _: &Streams, _: &Streams) -> Result<()> {
        seen.accumulated = 0.0;
        Ok(())
    }
}

#[typetag::serde(name = "seacache")]
impl CacheConfig for SeaCacheConfig {
    fn validate(&self, cx: &BuildCx<'_>) -> Vec<Problem> {
        let cache = match self.strategy(cx) {
            Ok((cache, _)) => cache,
            Err(error) => return vec![Problem::error(cx.place, error.to_string())],
        };
        let mut out = Vec::new();
        out.extend(Problem::unless_in(cx.place, "threshold", cache.threshold, 0.0, f64::MAX));
        if let Some(power) = self.power.filter(|power| !(*power > 0.0 && power.is_finite())) {
            let message = format!("`power` is {power}, it must be a number above 0");
            out.push(Problem::error(cx.place, message).hint("published are 3 for videos and 2 for pictures"));
        }
        let signal = cache.signal();
        if !cx.model.signals.contains(&signal) {
            let message = format!("model {:?} does not show its {}", cx.model.name, signal.as_str());
            let hint = match signal {
                Signal::Latents => "dialect = \"filtered\" looks at the modulated input",
                _ => "dialect = \"diffusers\" looks at the latents",
            };
            out.push(Problem::error(cx.place, message).hint(hint));
        }
        out.extend(few_steps(&cache, cx));
        out
    }

    fn reads(&self) -> Vec<Part> {
        if self.threshold.is_some() && self.dialect.is_some() { Vec::new() } else { vec![Part::Own(NAME)] }
    }

    fn build(&self, cx: &BuildCx<'_>) -> std::result::Result<Strategy, ConfigError> {
        let (cache, guards) = self.strategy(cx)?;
        Ok(Strategy::cache(cache, guards))
    }
}

impl SeaCacheConfig {
    fn strategy(&self, cx: &BuildCx<'_>) -> std::result::Result<(SeaCache, Guards), ConfigError> {
        let all = if self.reads().is_empty() { Vec::new() } else { published::<Published>(cx, NAME)? };
        // Each dialect has thresholds of its own.
        let fits = |own: &Published| self.dialect.is_none_or(|dialect| dialect == own.dialect);
        let own = all.into_iter().find(fits);
        let dialect = self.dialect.or(own.as_ref().map(|own| own.dialect)).unwrap_or_default();
        let max_skips = (dialect == Dialect::Diffusers).then_some(2);
        let guards =
            cx.guards(Guards { warmup: Warmup::Steps(1), last_steps: 1, max_skips, ..Guards::default() });
        let common = if dialect == Dialect::Diffusers { 0.25 } else { 0.2 };
        let threshold =
            self.threshold.or(own.and_then(|own| own.thresholds.first().copied())).unwrap_or(common);
        Ok((SeaCache { threshold, dialect, power: self.power, guards }, guards))
    }
}

/// A warning for runs in which latents move too far at every step.
fn few_steps(cache: &SeaCache, cx: &BuildCx<'_>) -> Option<Problem> {
    let steps = cx.trajectory?.steps_of_clip();
    if steps > 8 || cache.signal() != Signal::Latents || cache.threshold > 0.4 {
        return None;
    }
    let message = format!(
        "latents move by half and more in each of {steps} steps: below {} hardly a step will be skipped",
        cache.threshold
    );
    Some(
        Problem::warning(cx.place, message)
            .hint("plan few steps (`magcache plan`), or use a larger threshold"),
    )
}

inventory::submit! {
    StrategyInfo {
        name: NAME,
        summary: "skips while the latents, filtered of what is noise at their noise level, have moved little",
        paper: "https://arxiv.org/abs/2602.18993",
        level: Level::Blocks,
        example: r#"
            strategy = "seacache"
            threshold = 0.5
        "#,
        never: r#"
            strategy = "seacache"
            threshold = 0.0
        "#,
        keys: keys_of::<SeaCacheConfig>,
        origin: env!("CARGO_PKG_NAME"),
    }
}
