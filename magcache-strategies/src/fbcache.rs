//! First Block Cache: run the first block; if its residual is close to that of the last computed step,
//! replace the other blocks (`ParaAttention`; diffusers' `FirstBlockCacheConfig`).
//!
//! Distances are to the last *computed* step, so drift is bounded, or those from step to step are summed
//! until a step is computed. A NaN metric computes; in diffusers it skips.

use magcache_core::{
    BuildCx, CacheConfig, ConfigError, Guards, Level, Problem, Rule, Signal, Step, Strategy, StrategyInfo,
    Verdict, Warmup, Why, Window, inventory,
    keys::keys_of,
    strategy::{Measure, Norm, Quantity, Seen, Since},
    typetag,
};
use serde::{Deserialize, Serialize};

/// What is compared with the last computed step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "keys", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// What the first block added to the denoised stream, relative L1: the rule of the method.
    #[default]
    ResidualRelL1,
    /// What it added to all streams, also to text or to the tokens of a picture, relative L1.
    AllResidualRelL1,
    /// The first block's modulated input, relative L1.
    HiddenRelL1,
    /// The first block's modulated input, relative L2.
    HiddenRelL2,
}

/// The reading of the threshold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "keys", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// Skips below the threshold; `warmup` and `last_steps` are 1 without the words.
    #[default]
    #[serde(alias = "magcache")]
    Strict,
    /// Skips on equality too, as diffusers; `warmup` and `last_steps` are 0 without the words.
    Diffusers,
    /// Sums the distances from step to step since the last computed one, as `TeaCache` does with its signal,
    /// and skips below the threshold; otherwise as `strict`. Not published.
    Summed,
}

/// The keys of `strategy = "fbcache"`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "keys", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct FbCacheConfig {
    /// Bound of the relative distance to the last computed step, or of the sum; a larger one skips more.
    #[cfg_attr(feature = "keys", schemars(range(min = 0.0), extend("target" = [0, 2])))]
    pub threshold: f64,
    /// What is compared.
    pub metric: Metric,
    /// Every how many-th token the metric looks at; 1 is all of them.
    #[cfg_attr(feature = "keys", schemars(range(min = 1, max = u32::MAX)))]
    pub downsample: usize,
    /// Weight of the previous metric in an exponential mean; 0 is none.
    #[cfg_attr(feature = "keys", schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0)))]
    pub ema: f64,
    /// The reading of the threshold.
    pub dialect: Dialect,
}

impl Default for FbCacheConfig {
    fn default() -> Self {
        Self {
            threshold: 0.08,
            metric: Metric::default(),
            downsample: 1,
            ema: 0.0,
            dialect: Dialect::default(),
        }
    }
}

/// The strategy.
#[derive(Clone, Debug)]
pub struct FbCache {
    threshold: f64,
    dialect: Dialect,
    metric: Metric,
    downsample: usize,
    ema: f64,
}

impl Rule for FbCache {
    fn window(&self) -> Window {
        Window { front: 1, back: 0 }
    }

    fn measure(&self) -> Option<Measure> {
        let of = match self.metric {
            Metric::ResidualRelL1 => Quantity::FrontResidual,
            Metric::AllResidualRelL1 => Quantity::FrontResidualOfAll,
            Metric::HiddenRelL1 | Metric::HiddenRelL2 => Quantity::Signal(Signal::ModulatedInput),
        };
        let norm = if self.metric == Metric::HiddenRelL2 { Norm::L2 } else { Norm::L1 };
        let since = if self.dialect == Dialect::Summed { Since::Previous } else { Since::Computed };
        Some(Measure { of, norm, since, every: self.downsample })
    }

    fn threshold(&self, _: &Step) -> Option<f64> {
        Some(self.threshold)
    }

    /// Carries the exponential mean, or the sum.
    fn decide(&self, seen: &Seen<'_>, carried: &mut Option<f64>) -> Verdict {
        let Some(metric) = seen.measured else { return Verdict::compute(Why::NoHistory) };
        let compared = match *carried {
            Some(sum) if self.dialect == Dialect::Summed => sum + metric,
            // With zero weight the last mean must not count, even if it is NaN.
            Some(mean) if self.ema > 0.0 => self.ema * mean + (1.0 - self.ema) * metric,
            _ => metric,
        };
        *carried = Some(compared);
        let within = match self.dialect {
            Dialect::Diffusers => compared <= self.threshold,
            Dialect::Strict | Dialect::Summed => compared < self.threshold,
        };
        let verdict = if within { Verdict::reuse(Why::Under) } else { Verdict::compute(Why::Over) };
        verdict.metric(metric).accumulated(compared)
    }
}

#[typetag::serde(name = "fbcache")]
impl CacheConfig for FbCacheConfig {
    fn validate(&self, cx: &BuildCx<'_>) -> Vec<Problem> {
        let place = cx.place;
        let mut out = Vec::new();
        out.extend(Problem::unless_in(place, "threshold", self.threshold, 0.0, f64::MAX));
        if !(0.0..1.0).contains(&self.ema) {
            out.push(Problem::error(
                place,
                format!("`ema` is {}, it must be at least 0 and below 1", self.ema),
            ));
        }
        if self.ema > 0.0 && self.dialect == Dialect::Summed {
            let message = format!("`ema` is {}, and `dialect = \"summed\"` has no mean", self.ema);
            out.push(Problem::error(place, message).hint("leave out `ema`, or the dialect"));
        }
        if self.downsample == 0 || u32::try_from(self.downsample).is_err() {
            let message = format!("`downsample` is {}, it must be at least 1", self.downsample);
            out.push(Problem::error(place, message).hint("1 looks at every token"));
        }
        let hidden = matches!(self.metric, Metric::HiddenRelL1 | Metric::HiddenRelL2);
        if hidden && !cx.model.signals.contains(&Signal::ModulatedInput) {
            let message = format!("model {:?} does not show its modulated input", cx.model.name);
            out.push(Problem::error(place, message).hint("use metric = \"residual_rel_l1\""));
        }
        if cx.range.len() == 1 {
            let message = "the range is one block, which always runs: correct, but nothing can be saved";
            out.push(Problem::warning(place, message).hint("use magcache or teacache on a single block"));
        }
        out
    }

    fn build(&self, cx: &BuildCx<'_>) -> Result<Strategy, ConfigError> {
        let edge = usize::from(self.dialect != Dialect::Diffusers);
        let guards = Guards { warmup: Warmup::Steps(edge), last_steps: edge, ..Guards::default() };
        let cache = FbCache {
            threshold: self.threshold,
            dialect: self.dialect,
            metric: self.metric,
            downsample: self.downsample,
            ema: self.ema,
        };
        Ok(Strategy::rule(cache, cx.guards(guards)))
    }
}

inventory::submit! {
    StrategyInfo {
        name: "fbcache",
        summary: "runs the first block and skips the others while its residual is close to the last computed one",
        paper: "https://github.com/chengzeyi/ParaAttention",
        level: Level::Blocks,
        example: r#"
            strategy = "fbcache"
            threshold = 0.3
        "#,
        never: r#"
            strategy = "fbcache"
            threshold = 0.0
        "#,
        keys: keys_of::<FbCacheConfig>,
        origin: env!("CARGO_PKG_NAME"),
    }
}
