//! CFG cache: with classifier-free guidance the two branches of a step give nearly the same prediction, and
//! their difference changes slowly. Between full steps the unconditional pass is skipped and rebuilt from the
//! conditional one (Lv et al., "`FasterCache`", arXiv 2410.19355, "CFG-Cache"; the paper's cache of attention
//! outputs is not implemented).
//!
//! At a full step the difference `uncond − cond` is split into low and high spatial frequencies; at the steps
//! after it, `uncond = cond + low·alpha_low^i + high·alpha_high^j`, where `i` and `j` count the steps since
//! then in the part of the run where that weight acts: low frequencies until `low_until`, high ones from
//! `high_from` on. The rebuilt outputs equal those of diffusers 0.42.1 (`hooks/faster_cache.py`); the windows
//! are in steps of the run instead of timesteps, so that a shift does not move them. The defaults are those
//! of Vchitect/FasterCache (commit 02d05ef, 50 steps of `CogVideoX`); its counter starts at 1, so its full
//! steps are 4, 9, 14 where ours are 5, 10, 15.

mod frequencies;
mod spectrum;

use candle_core::Result;
use magcache_core::{
    Branch, BuildCx, CacheConfig, ConfigError, Guards, Head, Level, Problem, Step, Strategy, StrategyInfo,
    TimestepCache, Trajectory, Verdict, Warmup, Why,
    forecast::Forecast,
    inventory,
    keys::keys_of,
    strategy::{Base, Branches},
    typetag,
};
use serde::{Deserialize, Serialize};

use self::frequencies::{Frequencies, Weight};
pub use self::spectrum::low_pass;

/// The keys of `strategy = "cfg-cache"`. Places are steps, or fractions of the whole run.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CfgCacheConfig {
    /// The unconditional branch is computed at every so many-th step (`unconditional_batch_skip_range`).
    #[schemars(range(min = 1))]
    pub interval: usize,
    /// First step at which it may be left out.
    pub start: Warmup,
    /// First step from which on it is always computed again.
    pub end: Warmup,
    /// What the low frequencies of the difference grow by at each step left out (the paper's α₁).
    #[schemars(range(min = 0.0))]
    pub alpha_low: f64,
    /// First step at which they do not.
    pub low_until: Warmup,
    /// What the high frequencies grow by (α₂).
    #[schemars(range(min = 0.0))]
    pub alpha_high: f64,
    /// First step at which they do.
    pub high_from: Warmup,
}

impl Default for CfgCacheConfig {
    fn default() -> Self {
        Self {
            interval: 5,
            start: Warmup::Fraction(0.34),
            end: Warmup::Fraction(1.0),
            alpha_low: 1.1,
            low_until: Warmup::Fraction(0.8),
            alpha_high: 1.1,
            high_from: Warmup::Fraction(0.58),
        }
    }
}

/// The strategy: a fixed schedule for the unconditional branch.
#[derive(Clone, Debug)]
pub struct CfgCache(CfgCacheConfig);

impl TimestepCache for CfgCache {
    type State = ();

    fn base(&self) -> Base {
        Base::Leader
    }

    fn forecast(&self, step: &Step) -> Box<dyn Forecast> {
        let CfgCacheConfig { alpha_low, low_until, alpha_high, high_from, interval, .. } = self.0;
        let low = Weight { alpha: alpha_low, steps: 0..low_until.steps(step.total) };
        let high = Weight { alpha: alpha_high, steps: high_from.steps(step.total)..usize::MAX };
        Box::new(Frequencies::new(low, high, interval))
    }

    fn is_static(&self) -> bool {
        true
    }

    fn head(&self, (): &mut (), step: &Step, branch: Branch, _: &Head<'_>) -> Result<Verdict> {
        let window = self.0.start.steps(step.total)..self.0.end.steps(step.total);
        let left_out = branch == Branch::Uncond
            && window.contains(&step.index)
            && !step.index.is_multiple_of(self.0.interval);
        Ok(if left_out { Verdict::reuse(Why::Scheduled) } else { Verdict::compute(Why::Scheduled) })
    }
}

/// The problem that prevents rebuilding one branch from the other, if there is one.
fn check_branches(cx: &BuildCx<'_>, run: &Trajectory) -> Option<Problem> {
    let at = |branch| run.branches.iter().position(|b| *b == branch);
    let names: Vec<String> = run.branches.iter().map(ToString::to_string).collect();
    let has = names.join(" and ");
    match (at(Branch::Cond), at(Branch::Uncond)) {
        (Some(cond), Some(uncond)) if cond < uncond => None,
        (Some(_), Some(_)) => {
            let message = format!("the run's branches are {has} in this order: nothing will be skipped");
            Some(Problem::warning(cx.place, message).hint("run the conditional branch first"))
        }
        _ => {
            let message = format!("cfg-cache rebuilds the branch uncond from cond, the run has {has} alone");
            Some(Problem::error(cx.place, message).hint(
                "a `guidance = N` above 1 (`true_cfg = N` where guidance is distilled), or another strategy",
            ))
        }
    }
}

#[typetag::serde(name = "cfg-cache")]
impl CacheConfig for CfgCacheConfig {
    fn validate(&self, cx: &BuildCx<'_>) -> Vec<Problem> {
        let place = cx.place;
        let mut out = Vec::new();
        match self.interval {
            0 => out.push(Problem::error(place, "`interval` is 0, it must be at least 1")),
            1 => out.push(Problem::warning(place, "`interval` is 1: nothing will be skipped")),
            _ => {}
        }
        out.extend(Problem::unless_in(place, "alpha_low", self.alpha_low, 0.0, f64::MAX));
        out.extend(Problem::unless_in(place, "alpha_high", self.alpha_high, 0.0, f64::MAX));
        let places = [
            ("start", self.start),
            ("end", self.end),
            ("low_until", self.low_until),
            ("high_from", self.high_from),
        ];
        for (key, value) in places.into_iter().filter(|(_, value)| !value.is_valid()) {
            if let Warmup::Fraction(f) = value {
                out.extend(
                    Problem::unless_in(place, key, f, 0.0, 1.0).map(|p| p.hint("or a number of steps")),
                );
            }
        }
        if cx.words.branches() == Some(Branches::CondDecides) {
            let message =
                "`branches` is \"cond-decides\", but cfg-cache leaves out the unconditional branch alone";
            out.push(Problem::error(place, message).hint("remove `branches`"));
        }
        // A guidance-distilled model has both branches if the run enables them.
        match cx.trajectory {
            Some(run) => out.extend(check_branches(cx, run)),
            None if !cx.model.guided => {
                let message = format!("model {:?} has no unconditional branch", cx.model.name);
                out.push(Problem::error(place, message).hint("use another strategy"));
            }
            None => {}
        }
        if let Some(run) = cx.trajectory {
            let (start, end) = (self.start.steps(run.len()), self.end.steps(run.len()));
            if start >= end {
                let message =
                    format!("`start` is step {start}, `end` is step {end}: nothing will be skipped");
                out.push(Problem::warning(place, message));
            }
        }
        out
    }

    fn build(&self, cx: &BuildCx<'_>) -> std::result::Result<Strategy, ConfigError> {
        Ok(Strategy::cache(CfgCache(self.clone()), cx.guards(Guards::default())))
    }
}

inventory::submit! {
    StrategyInfo {
        name: "cfg-cache",
        summary: "leaves out unconditional passes and rebuilds them from the conditional ones",
        paper: "https://arxiv.org/abs/2410.19355",
        level: Level::Forward,
        example: r#"
            strategy = "cfg-cache"
            interval = 4
            start = 0.3
        "#,
        never: r#"
            strategy = "cfg-cache"
            interval = 1
        "#,
        keys: keys_of::<CfgCacheConfig>,
        origin: env!("CARGO_PKG_NAME"),
    }
}
