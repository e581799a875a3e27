//! `DBCache`: run the first blocks; if their residual is close to that of the last computed step, replace the
//! middle blocks and run the last ones on the result (vipshop/cache-dit, commit f86744a).
//!
//! With one front block and no back block it is FBCache's rule with different limits. Front blocks stabilise
//! the measurement and back blocks correct the reused output; both run in every step. Decides as the
//! published code, with three exceptions. Consecutive skips are really consecutive: there, a step computed
//! because of the metric does not reset the count, so that the cap is reached early, and a cap of 1 late. A
//! threshold of 1 or more is not special: there, everything is skipped. A guidance branch is a slot, not the
//! parity of a counter.

use magcache_core::{
    BuildCx, CacheConfig, ConfigError, Guards, Level, Problem, Rule, Step, Strategy, StrategyInfo, Verdict,
    Warmup, Why, Window,
    error::count,
    inventory,
    keys::keys_of,
    profile::Part,
    strategy::{Measure, Norm, Quantity, Seen, Since},
    typetag,
};
use serde::{Deserialize, Serialize};

use crate::published::published;

/// The name of the strategy, and of its settings in profiles: `[[part.dbcache]]`.
const NAME: &str = "dbcache";

/// What a profile has for it, with the defaults of the published code.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Published {
    front: usize,
    back: usize,
    threshold: f64,
    warmup: usize,
    max_skips: Option<usize>,
    max_total_skips: Option<usize>,
}

impl Default for Published {
    fn default() -> Self {
        Self { front: 8, back: 0, threshold: 0.08, warmup: 8, max_skips: None, max_total_skips: None }
    }
}

/// The keys of `strategy = "dbcache"`. Caps and warm-up are the common words: `max_skips` is the published
/// `max_continuous_cached_steps`, `max_total_skips` is `max_cached_steps`. What is not given comes from the
/// table's profile, where that has it for these front and back blocks, else from the published code (8 steps
/// of warm-up).
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "keys", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct DbCacheConfig {
    /// Blocks at the start that always run (`Fn_compute_blocks`); the metric is taken after them. Without it
    /// what is published for the model, else 8; half of the blocks where that would leave none to skip.
    #[cfg_attr(feature = "keys", schemars(range(min = 1)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub front: Option<usize>,
    /// Blocks at the end that always run (`Bn_compute_blocks`). Without it what is published for the model,
    /// else 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub back: Option<usize>,
    /// Bound of the relative L1 distance to the last computed step (`residual_diff_threshold`); a larger one
    /// skips more. Without it what is published for the model, else 0.08.
    #[cfg_attr(feature = "keys", schemars(range(min = 0.0), extend("target" = [0, 2])))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
}

impl DbCacheConfig {
    /// The strategy for a range of blocks, and its limits.
    fn strategy(&self, cx: &BuildCx<'_>) -> Result<(DbCache, Guards), ConfigError> {
        let all = if self.reads().is_empty() { Vec::new() } else { published::<Published>(cx, NAME)? };
        // A threshold is one of a number of front blocks.
        let fits = |own: &Published| {
            self.front.is_none_or(|front| front == own.front) && self.back.is_none_or(|back| back == own.back)
        };
        let own = all.into_iter().find(fits).unwrap_or_default();
        let back = self.back.unwrap_or(own.back);
        let free = cx.range.len().saturating_sub(back);
        let front = self.front.unwrap_or(if own.front < free { own.front } else { (free / 2).max(1) });
        let threshold = self.threshold.unwrap_or(own.threshold);
        let Published { max_skips, max_total_skips, .. } = own;
        let guards =
            Guards { warmup: Warmup::Steps(own.warmup), max_skips, max_total_skips, ..Guards::default() };
        Ok((DbCache { window: Window { front, back }, threshold }, guards))
    }
}

/// The strategy.
#[derive(Clone, Copy, Debug)]
pub struct DbCache {
    window: Window,
    threshold: f64,
}

impl Rule for DbCache {
    fn window(&self) -> Window {
        self.window
    }

    fn measure(&self) -> Option<Measure> {
        Some(Measure { of: Quantity::FrontResidual, since: Since::Computed, norm: Norm::L1, every: 1 })
    }

    fn threshold(&self, _: &Step) -> Option<f64> {
        Some(self.threshold)
    }

    fn decide(&self, seen: &Seen<'_>, _: &mut Option<f64>) -> Verdict {
        let Some(metric) = seen.measured else { return Verdict::compute(Why::NoHistory) };
        Verdict::below(metric, self.threshold).metric(metric)
    }
}

#[typetag::serde(name = "dbcache")]
impl CacheConfig for DbCacheConfig {
    fn validate(&self, cx: &BuildCx<'_>) -> Vec<Problem> {
        let place = cx.place;
        let blocks = cx.range.len();
        let (threshold, front, back) = match self.strategy(cx) {
            Ok((DbCache { window, threshold }, _)) => (threshold, window.front, window.back),
            Err(error) => return vec![Problem::error(place, error.to_string())],
        };
        let mut out = Vec::new();
        out.extend(Problem::unless_in(place, "threshold", threshold, 0.0, f64::MAX));
        if front == 0 {
            let message = "`front` is 0, it must be at least 1: the metric is what the front blocks added";
            out.push(Problem::error(place, message).hint("8 is the published value, 1 the cheapest"));
        }
        if blocks == 1 {
            let message = "the range is one block: front blocks and something to skip need at least two";
            out.push(Problem::error(place, message).hint("use magcache or teacache on a single block"));
        } else if front.saturating_add(back) >= blocks {
            let message = format!(
                "`front` is {front} and `back` is {back}, the range has {}: nothing is left to skip",
                count(blocks, "block")
            );
            let hint = format!("their sum must be at most {}", blocks - 1);
            out.push(Problem::error(place, message).hint(hint));
        }
        out
    }

    fn reads(&self) -> Vec<Part> {
        let is_whole = self.front.is_some() && self.back.is_some() && self.threshold.is_some();
        if is_whole { Vec::new() } else { vec![Part::Own(NAME)] }
    }

    fn build(&self, cx: &BuildCx<'_>) -> Result<Strategy, ConfigError> {
        let (rule, guards) = self.strategy(cx)?;
        Ok(Strategy::rule(rule, cx.guards(guards)))
    }
}

inventory::submit! {
    StrategyInfo {
        name: NAME,
        summary: "runs the first and last blocks and skips the middle while the first ones' residual has moved little",
        paper: "https://github.com/vipshop/cache-dit",
        level: Level::Blocks,
        example: r#"
            strategy = "dbcache"
            front = 2
            back = 1
            threshold = 0.3
            warmup = 3
        "#,
        never: r#"
            strategy = "dbcache"
            front = 2
            back = 1
            threshold = 0.0
        "#,
        keys: keys_of::<DbCacheConfig>,
        origin: env!("CARGO_PKG_NAME"),
    }
}
