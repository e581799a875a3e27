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
    strategy::{Measure, Norm, Quantity, Seen, Since},
    typetag,
};
use serde::{Deserialize, Serialize};

/// `Fn_compute_blocks` as published.
const FRONT: usize = 8;

/// The keys of `strategy = "dbcache"`. Caps and warm-up (8 steps without the word) are the common words:
/// `max_skips` is the published `max_continuous_cached_steps`, `max_total_skips` is `max_cached_steps`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "keys", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct DbCacheConfig {
    /// Blocks at the start that always run (`Fn_compute_blocks`); the metric is taken after them. Without it
    /// 8, the published value; half of the blocks where 8 would leave none to skip.
    #[cfg_attr(feature = "keys", schemars(range(min = 1)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub front: Option<usize>,
    /// Blocks at the end that always run (`Bn_compute_blocks`).
    pub back: usize,
    /// Bound of the relative L1 distance to the last computed step (`residual_diff_threshold`); a larger one
    /// skips more.
    #[cfg_attr(feature = "keys", schemars(range(min = 0.0), extend("target" = [0, 2])))]
    pub threshold: f64,
}

impl Default for DbCacheConfig {
    fn default() -> Self {
        Self { front: None, back: 0, threshold: 0.08 }
    }
}

impl DbCacheConfig {
    /// The number of front blocks in a range of `blocks`: the default leaves at least one block to skip.
    fn front(&self, blocks: usize) -> usize {
        let free = blocks.saturating_sub(self.back);
        self.front.unwrap_or(if FRONT < free { FRONT } else { (free / 2).max(1) })
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
        let (front, back) = (self.front(blocks), self.back);
        let mut out = Vec::new();
        out.extend(Problem::unless_in(place, "threshold", self.threshold, 0.0, f64::MAX));
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

    fn build(&self, cx: &BuildCx<'_>) -> Result<Strategy, ConfigError> {
        let window = Window { front: self.front(cx.range.len()), back: self.back };
        let guards = Guards { warmup: Warmup::Steps(8), ..Guards::default() };
        Ok(Strategy::rule(DbCache { window, threshold: self.threshold }, cx.guards(guards)))
    }
}

inventory::submit! {
    StrategyInfo {
        name: "dbcache",
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
