//! `DiCache`: the first blocks run on every step; while what leaves them has moved little since the last
//! computed step, the others are replaced along a line whose length the first blocks tell (Bu et al.,
//! "`DiCache`: Let Diffusion Model Determine Its Own Cache", arXiv 2508.17356).
//!
//! Distances are between consecutive steps, skipped ones included, and are summed until a step is computed.
//! The published scripts differ in what is always computed, in the comparison and in the cap of the line:
//! [`Dialect`]. Ours counts steps where the script for Wan counts forwards of both branches, computes the
//! last step, and takes a gain that is not finite as 1, where the published code puts NaN into the output.

mod aligned;

use candle_core::{Result, Tensor};
use magcache_core::{
    Branch, BuildCx, CacheConfig, ConfigError, Guards, Head, Level, Problem, Step, Strategy, StrategyInfo,
    Streams, TimestepCache, Verdict, Warmup, Why, Window, error::count, forecast::Forecast, inventory,
    keys::keys_of, profile::Part, typetag,
};
use serde::{Deserialize, Serialize};

pub use self::aligned::{Aligned, AlignedConfig};
use crate::published::published;

/// The name of the strategy, and of its settings in profiles: `[[part.dicache]]`.
const NAME: &str = "dicache";

/// What holds for models that nothing is published for.
const THRESHOLD: f64 = 0.08;
const RETENTION: f64 = 0.2;

/// What is always computed, how the sum is compared, and how far the line is followed at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// The first steps of each expert and the last one; below the threshold; 2.
    #[default]
    Steps,
    /// As the script for Wan: the first forwards, those of both branches counted in turn; 2.
    Wan,
    /// As the script for FLUX: one step more at the start, and the last one; 1.5.
    Flux,
    /// As the script for `HunyuanVideo`: the first steps; skips on equality too; 1.5.
    Hunyuan,
}

/// What is summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Measured {
    /// The relative L1 change of what leaves the first blocks.
    #[default]
    DeltaY,
    /// How much that differs from the change of what entered them.
    DeltaMinus,
}

/// The keys of `strategy = "dicache"`. What is not given comes from the table's profile, where that has it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DiCacheConfig {
    /// Bound of the summed distance; a larger one skips more. Without it what is published for the model,
    /// else 0.08.
    #[schemars(range(min = 0.0), extend("target" = [0, 4]))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// Blocks at the start that run on every step.
    #[schemars(range(min = 1))]
    pub probe: usize,
    /// What is summed. Without it that of the published threshold, else `delta_y`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Measured>,
    /// What is always computed, how the sum is compared, and how far the line is followed. Without it that of
    /// the published threshold, else `steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dialect: Option<Dialect>,
    /// The fraction of the steps that is computed first, as the dialect counts it. Without it that of the
    /// published threshold, else 0.2.
    #[schemars(range(min = 0.0, max = 1.0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<f64>,
}

impl Default for DiCacheConfig {
    fn default() -> Self {
        Self { threshold: None, probe: 1, error: None, dialect: None, retention: None }
    }
}

/// What a profile has for it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Published {
    /// The default first.
    thresholds: Vec<f64>,
    #[serde(default)]
    error: Measured,
    #[serde(default)]
    dialect: Dialect,
    retention: f64,
}

/// The strategy: its keys, each with a value.
#[derive(Clone, Copy, Debug)]
pub struct DiCache {
    threshold: f64,
    probe: usize,
    error: Measured,
    dialect: Dialect,
    retention: f64,
}

/// What it remembers in one slot.
#[derive(Debug, Default)]
pub struct Seen {
    /// What left the first blocks at the step before.
    left: Option<Tensor>,
    /// What entered them, if that counts.
    entered: Option<Tensor>,
    accumulated: f64,
}

magcache_core::fields!(Seen { left, entered, accumulated } given {});

impl DiCache {
    /// Whether a published script computes this forward without looking.
    fn is_retained(&self, step: &Step, branch: Branch) -> bool {
        let Self { dialect, retention, .. } = *self;
        let steps = (step.total as f64 * retention) as usize;
        let forwards = (2.0 * step.total as f64 * retention) as usize;
        match dialect {
            // The adapter's warm-up does.
            Dialect::Steps => false,
            Dialect::Wan => 2 * step.index + usize::from(branch == Branch::Uncond) < forwards,
            Dialect::Flux => step.index <= steps,
            Dialect::Hunyuan => step.index < steps,
        }
    }

    /// The distance from the step before; `None` at the first one.
    fn distance(&self, seen: &Seen, x: &Head<'_>, now: [&Tensor; 2]) -> Result<Option<f64>> {
        let [left, entered] = now;
        let Some(left_before) = &seen.left else { return Ok(None) };
        match (&seen.entered, self.error) {
            (Some(before), Measured::DeltaMinus) => {
                let [left, entered] = x.relative_l1_of([(left, left_before), (entered, before)])?;
                Ok(Some((left - entered).abs()))
            }
            _ => x.relative_l1(left, left_before).map(Some),
        }
    }
}

impl TimestepCache for DiCache {
    type State = Seen;

    fn window(&self) -> Window {
        Window { front: self.probe, back: 0 }
    }

    fn forecast(&self, _: &Step) -> Box<dyn Forecast> {
        let cap = match self.dialect {
            Dialect::Steps | Dialect::Wan => 2.0,
            Dialect::Flux | Dialect::Hunyuan => 1.5,
        };
        Box::new(Aligned::new(AlignedConfig { probe: self.probe, cap }))
    }

    fn threshold(&self, _: &Step) -> Option<f64> {
        Some(self.threshold)
    }

    fn head(&self, seen: &mut Seen, step: &Step, branch: Branch, x: &Head<'_>) -> Result<Verdict> {
        let (left, entered) = (x.fronted.image()?, x.input.image()?);
        let distance = self.distance(seen, x, [&left, &entered])?;
        seen.left = Some(left);
        seen.entered = (self.error == Measured::DeltaMinus).then_some(entered);
        let Some(distance) = distance else { return Ok(Verdict::compute(Why::NoHistory)) };
        if self.is_retained(step, branch) {
            return Ok(Verdict::compute(Why::Warmup).metric(distance));
        }
        seen.accumulated += distance;
        let sum = seen.accumulated;
        let on_equality = self.dialect == Dialect::Hunyuan && sum == self.threshold;
        let verdict =
            if on_equality { Verdict::reuse(Why::Under) } else { Verdict::below(sum, self.threshold) };
        Ok(verdict.metric(distance).accumulated(sum))
    }

    fn tail(&self, seen: &mut Seen, _: &Step, _: Branch, _: &Streams, _: &Streams) -> Result<()> {
        seen.accumulated = 0.0;
        Ok(())
    }
}

impl DiCacheConfig {
    fn strategy(&self, cx: &BuildCx<'_>) -> std::result::Result<DiCache, ConfigError> {
        let all = if self.reads().is_empty() { Vec::new() } else { published::<Published>(cx, NAME)? };
        // A threshold is one of what is summed.
        let own = all.iter().find(|own| self.error.is_none_or(|error| error == own.error));
        let threshold = own.and_then(|own| own.thresholds.first().copied());
        Ok(DiCache {
            threshold: self.threshold.or(threshold).unwrap_or(THRESHOLD),
            probe: self.probe,
            error: self.error.or(own.map(|own| own.error)).unwrap_or_default(),
            dialect: self.dialect.or(own.map(|own| own.dialect)).unwrap_or_default(),
            retention: self.retention.or(own.map(|own| own.retention)).unwrap_or(RETENTION),
        })
    }
}

#[typetag::serde(name = "dicache")]
impl CacheConfig for DiCacheConfig {
    fn validate(&self, cx: &BuildCx<'_>) -> Vec<Problem> {
        let DiCache { threshold, retention, .. } = match self.strategy(cx) {
            Ok(cache) => cache,
            Err(error) => return vec![Problem::error(cx.place, error.to_string())],
        };
        let mut out = Vec::new();
        out.extend(Problem::unless_in(cx.place, "threshold", threshold, 0.0, f64::MAX));
        out.extend(Problem::unless_in(cx.place, "retention", retention, 0.0, 1.0));
        let blocks = cx.range.len();
        if self.probe == 0 || self.probe >= blocks {
            let message = format!(
                "`probe` is {}, the range has {}: at least one must tell and one be left to skip",
                self.probe,
                count(blocks, "block")
            );
            let hint = if blocks > 1 { "1 is the published value" } else { "use magcache or teacache there" };
            out.push(Problem::error(cx.place, message).hint(hint));
        }
        out
    }

    fn reads(&self) -> Vec<Part> {
        let Self { threshold, error, dialect, retention, .. } = self;
        let is_whole = threshold.is_some() && error.is_some() && dialect.is_some() && retention.is_some();
        if is_whole { Vec::new() } else { vec![Part::Own(NAME)] }
    }

    fn build(&self, cx: &BuildCx<'_>) -> std::result::Result<Strategy, ConfigError> {
        let cache = self.strategy(cx)?;
        let (warmup, last_steps) = match cache.dialect {
            Dialect::Steps => (Warmup::Fraction(cache.retention), 1),
            Dialect::Flux => (Warmup::Steps(1), 1),
            Dialect::Wan | Dialect::Hunyuan => (Warmup::Steps(1), 0),
        };
        let guards = Guards { warmup, last_steps, ..Guards::default() };
        Ok(Strategy::cache(cache, cx.guards(guards)))
    }
}

inventory::submit! {
    StrategyInfo {
        name: NAME,
        summary: "runs the first blocks and skips the others while what leaves the first ones has moved little",
        paper: "https://arxiv.org/abs/2508.17356",
        level: Level::Blocks,
        example: r#"
            strategy = "dicache"
            threshold = 0.3
        "#,
        never: r#"
            strategy = "dicache"
            threshold = 0.0
        "#,
        keys: keys_of::<DiCacheConfig>,
        origin: env!("CARGO_PKG_NAME"),
    }
}
