//! EasyCache: the rate at which the output changes with the input is nearly constant over a run, so the
//! change of the output can be predicted from the change of the input (Zhou et al., "Less is Enough", arXiv
//! 2507.02860).
//!
//! The rule of H-EmbodVis/EasyCache (`EasyCache4Wan2.1/easycache_generate.py`, commit 5127804): at every
//! computed step `rate = mean|output − output'| / mean|input − input'|`, primes being the last computed step
//! before it; at every step `mean|input − previous input| · rate / mean|output'|` is added up, and while the
//! sum is below the threshold the whole forward is `input + (output' − input')`. The conditional branch
//! decides for the others. Cases that the published script does not cover: a batch uses its worst row, and a
//! rate that is not finite keeps the previous one. stable-diffusion.cpp measures from the last *computed*
//! input and still sums, which counts distances twice.

use candle_core::Tensor;
use magcache_core::{
    Branch, BuildCx, CacheConfig, ConfigError, Guards, Head, Level, Problem, Step, Strategy, StrategyInfo,
    Streams, TimestepCache, Verdict, Warmup, Why, inventory, keys::keys_of, metrics, strategy::Branches,
    typetag,
};
use serde::{Deserialize, Serialize};

/// The keys of `strategy = "easycache"`.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EasyCacheConfig {
    /// Bound of the accumulated relative change of the output (`thresh`, the paper's τ).
    #[schemars(range(min = 0.0), extend("target" = [0, 2]))]
    pub threshold: f64,
}

impl Default for EasyCacheConfig {
    fn default() -> Self {
        Self { threshold: 0.05 }
    }
}

/// The strategy.
#[derive(Clone, Copy, Debug)]
pub struct EasyCache {
    threshold: f64,
}

/// The state of one slot.
#[derive(Debug, Default)]
pub struct EasyState {
    /// Input of the previous pass, computed or not.
    previous: Option<Tensor>,
    /// Measurements of the last computed pass.
    anchor: Option<Anchor>,
    /// Change of the output per change of the input, by row: the transformation rate `k`.
    rate: Option<Vec<f64>>,
    accumulated: f64,
}

#[derive(Debug)]
struct Anchor {
    input: Tensor,
    output: Tensor,
    /// `mean|output|` by row.
    size: Vec<f64>,
}

magcache_core::fields!(EasyState { previous, anchor, rate, accumulated });
magcache_core::fields!(Anchor { input, output, size });

impl TimestepCache for EasyCache {
    type State = EasyState;

    fn threshold(&self, _: &Step) -> Option<f64> {
        Some(self.threshold)
    }

    fn head(&self, state: &mut EasyState, _: &Step, _: Branch, x: &Head<'_>) -> candle_core::Result<Verdict> {
        let now = x.input.image()?;
        let (Some(previous), Some(anchor), Some(rate)) = (&state.previous, &state.anchor, &state.rate) else {
            state.previous = Some(now);
            return Ok(Verdict::compute(Why::NoHistory));
        };
        let moved = metrics::mean_abs_difference(&now, previous)?;
        let relative =
            moved.iter().zip(rate).zip(&anchor.size).map(|((moved, rate), size)| rate * moved / size);
        let predicted = metrics::worst(relative);
        state.previous = Some(now);
        state.accumulated += predicted;
        Ok(Verdict::below(state.accumulated, self.threshold).metric(predicted))
    }

    fn tail(
        &self,
        state: &mut EasyState,
        _: &Step,
        _: Branch,
        x: &Streams,
        y: &Streams,
    ) -> candle_core::Result<()> {
        let (input, output) = (x.image()?, y.image()?);
        let size = match &state.anchor {
            None => metrics::mean_abs(&output)?,
            Some(before) => {
                let pairs = [(&input, &before.input), (&before.output, &output)];
                let [moved, changed] = metrics::mean_abs_of(pairs)?;
                let rates =
                    changed.iter().zip(moved).map(|(changed, moved)| changed.difference / moved.difference);
                let rate: Vec<f64> = rates.collect();
                if rate.iter().all(|rate| rate.is_finite()) {
                    state.rate = Some(rate);
                }
                changed.into_iter().map(|mean| mean.of_b).collect()
            }
        };
        state.anchor = Some(Anchor { input, output, size });
        state.accumulated = 0.0;
        Ok(())
    }
}

#[typetag::serde(name = "easycache")]
impl CacheConfig for EasyCacheConfig {
    fn validate(&self, cx: &BuildCx<'_>) -> Vec<Problem> {
        Problem::unless_in(cx.place, "threshold", self.threshold, 0.0, f64::MAX).into_iter().collect()
    }

    fn build(&self, cx: &BuildCx<'_>) -> Result<Strategy, ConfigError> {
        // Published: the first 10 of 50 steps and the last one are computed.
        let guards = Guards {
            warmup: Warmup::Fraction(0.2),
            last_steps: 1,
            branches: Branches::CondDecides,
            ..Guards::default()
        };
        Ok(Strategy::cache(EasyCache { threshold: self.threshold }, cx.guards(guards)))
    }
}

inventory::submit! {
    StrategyInfo {
        name: "easycache",
        summary: "skips whole forwards while the change of the output, predicted from the input's, stays small",
        paper: "https://arxiv.org/abs/2507.02860",
        level: Level::Forward,
        example: r#"
            strategy = "easycache"
            threshold = 0.1
        "#,
        never: r#"
            strategy = "easycache"
            threshold = 0.0
        "#,
        keys: keys_of::<EasyCacheConfig>,
        origin: env!("CARGO_PKG_NAME"),
    }
}
