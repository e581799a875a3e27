//! MagCache: the magnitude of residuals follows a nearly prompt-independent law, so the error of reuse can be
//! bounded from a curve that is measured once (Ma et al., "MagCache", arXiv 2506.09045).
//!
//! The decision depends on the curve, the last computed step and this step: no tensor, no accumulator. It
//! equals the published form with accumulators (property test in `tests/framework/properties.rs`). Published
//! implementations differ in details; each variant is a [`Dialect`].

mod dialect;
mod rule;

use std::collections::BTreeMap;

use magcache_core::{
    BuildCx, CacheConfig, ConfigError, Guards, Level, Problem, Rule, Step, Strategy, StrategyInfo,
    Trajectory, Verdict, Warmup, Why,
    error::count,
    hint::Hint,
    inventory,
    keys::keys_of,
    profile::{Curve, Part, Profile, Provenance, Recommended},
    strategy::Seen,
    typetag,
};
use serde::{Deserialize, Serialize};

pub use self::{dialect::Dialect, rule::MagCache};

/// Runs of at most this many steps count as few-step runs, in which skipping whole steps is known to hurt.
const FEW_STEPS: usize = 8;

/// The keys of `strategy = "magcache"`. Without `ratios` the curve comes from the table's profile; without
/// `threshold`, `max_skips` or `warmup` so do they.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "keys", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MagCacheConfig {
    /// Bound of the accumulated error; a larger one skips more. Without it the one that the curve's publisher
    /// recommends, else 0.12.
    #[cfg_attr(feature = "keys", schemars(range(min = 0.0), extend("target" = [0, 4])))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// Which reading of the rule. Without it the one of the curve's publisher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialect: Option<Dialect>,
    /// A curve in place of the profile's: one list, or one by branch (`{ cond = [...], uncond = [...] }`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratios: Option<Ratios>,
    /// `num_inference_steps` of a diffusers configuration that was written for another number of steps than
    /// the run has. Only with `dialect = "diffusers"`, whose state starts again after so many steps.
    #[cfg_attr(feature = "keys", schemars(range(min = 1)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assume_steps: Option<usize>,
}

/// A curve in a configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "keys", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Ratios {
    /// One list for every branch.
    One(Vec<f64>),
    /// A list by branch.
    ByBranch(BTreeMap<String, Vec<f64>>),
}

impl Ratios {
    fn curve(&self) -> Curve {
        let ratios = match self {
            Self::One(values) => BTreeMap::from([("cond".to_owned(), values.clone())]),
            Self::ByBranch(map) => map.clone(),
        };
        Curve {
            variant: None,
            expert: None,
            steps: ratios.values().next().map_or(0, Vec::len),
            dialect: None,
            flow_shift: None,
            boundary_ratio: None,
            ratios,
            std: BTreeMap::new(),
            cosine_distance: BTreeMap::new(),
            recommended: Vec::new(),
            source: Provenance::default(),
        }
    }
}

impl Rule for MagCache {
    fn threshold(&self, _: &Step) -> Option<f64> {
        Some(self.threshold)
    }

    fn decide(&self, seen: &Seen<'_>, _: &mut Option<f64>) -> Verdict {
        match seen.history.last_computed {
            None => Verdict::compute(Why::NoHistory),
            last => self.decide_after(seen.step, seen.branch, last),
        }
    }
}

impl MagCacheConfig {
    fn curves(&self, cx: &BuildCx<'_>) -> Result<Vec<Curve>, ConfigError> {
        if let Some(ratios) = &self.ratios {
            // In a table for a single expert, the list covers that expert's phase.
            let expert = if let [one] = cx.experts { Some(one.0) } else { None };
            return Ok(vec![Curve { expert, ..ratios.curve() }]);
        }
        let found = cx.words.profile().map(|p| p.curves_of(cx.words.variant())).transpose()?;
        Ok(found.unwrap_or_default().into_iter().cloned().collect())
    }

    fn rule(&self, cx: &BuildCx<'_>) -> Result<MagCache, ConfigError> {
        let curves = self.curves(cx)?;
        let default = Recommended { label: String::new(), threshold: 0.12, max_skips: 2, warmup: 0.2 };
        let published = curves.iter().find_map(|c| c.recommended.first()).cloned().unwrap_or(default);
        let named = curves.iter().find_map(|c| c.dialect.as_deref()).map(Dialect::parse).transpose()?;
        Ok(MagCache {
            dialect: self.dialect.or(named).unwrap_or_default(),
            threshold: self.threshold.unwrap_or(published.threshold),
            max_skips: cx.words.max_skips().unwrap_or(published.max_skips),
            retention: cx.words.warmup().unwrap_or(Warmup::Fraction(published.warmup)),
            assume_steps: self.assume_steps,
            curves,
        })
    }

    fn check(&self, cx: &BuildCx<'_>, out: &mut Vec<Problem>) -> Result<(), ConfigError> {
        let place = cx.place;
        let curves = self.curves(cx)?;
        if curves.is_empty() {
            let hint = "name one with `profile`, or give `ratios`";
            out.push(Problem::error(place, "magcache needs a curve and there is none").hint(hint));
            return Ok(());
        }
        if let Some(ratios) = &self.ratios {
            let inline =
                Profile { name: "ratios".to_owned(), curves: vec![ratios.curve()], ..Profile::default() };
            out.extend(inline.problems().into_iter().map(|p| Problem { place: place.to_owned(), ..p }));
        }
        let rule = self.rule(cx)?;
        out.extend(Problem::unless_in(place, "threshold", rule.threshold, 0.0, f64::MAX));
        match (self.assume_steps, rule.dialect) {
            (Some(0), _) => out.push(Problem::error(place, "`assume_steps` is 0, it must be at least 1")),
            (Some(_), dialect) if dialect != Dialect::Diffusers => {
                let message = format!("`assume_steps` has no meaning for dialect {:?}", dialect.name());
                out.push(Problem::error(place, message).hint("use dialect = \"diffusers\", or remove it"));
            }
            _ => {}
        }
        warn_about_run(cx, &curves, out);
        Ok(())
    }
}

/// Adds warnings about the run.
fn warn_about_run(cx: &BuildCx<'_>, curves: &[Curve], out: &mut Vec<Problem>) {
    let Some(run) = cx.trajectory else { return };
    if run.len() <= FEW_STEPS {
        let message =
            format!("{}: on a few-step run, caching whole steps is known to hurt", count(run.len(), "step"));
        out.push(Problem::warning(cx.place, message).hint("run it without a cache, or cache single blocks"));
    }
    for curve in curves {
        out.extend(moved(cx, run, curve));
    }
}

/// The problem with a curve that was measured on another schedule, with the effect on the boundary between
/// two experts.
fn moved(cx: &BuildCx<'_>, run: &Trajectory, curve: &Curve) -> Option<Problem> {
    let differs = |a: Option<f64>, b: Option<f64>| a.zip(b).filter(|(a, b)| (a - b).abs() > 1e-6);
    let shift = differs(curve.flow_shift, run.flow_shift);
    let boundary = differs(curve.boundary_ratio, run.boundary_ratio);
    let what = match (shift, boundary) {
        (None, None) => return None,
        (Some((was, is)), None) => format!("at flow_shift {was}, the run has {is}"),
        (None, Some((was, is))) => format!("at boundary {was}, the run has {is}"),
        (Some((shift, run_shift)), Some((was, is))) => {
            format!("at flow_shift {shift} and boundary {was}, the run has {run_shift} and {is}")
        }
    };
    let mut message = format!("the curve was measured {what}");
    if let Some([there, here]) = curve.boundaries(run) {
        message += &format!(
            "; of {} the first expert runs {there} on the curve's schedule, {here} on this one",
            count(run.len(), "step")
        );
    }
    Some(Problem::warning(cx.place, message).hint("calibrate on the run's schedule"))
}

#[typetag::serde(name = "magcache")]
impl CacheConfig for MagCacheConfig {
    fn validate(&self, cx: &BuildCx<'_>) -> Vec<Problem> {
        let mut out = Vec::new();
        if let Err(error) = self.check(cx, &mut out) {
            let problem = Problem::error(cx.place, error.to_string());
            out.push(match error.hint() {
                Some(hint) => problem.hint(hint),
                None => problem,
            });
        }
        out
    }

    fn reads(&self) -> Vec<Part> {
        if self.ratios.is_some() { Vec::new() } else { vec![Part::Curves] }
    }

    fn build(&self, cx: &BuildCx<'_>) -> Result<Strategy, ConfigError> {
        // The rule interprets warm-up and cap itself; the adapter enforces the other limits.
        let guards = Guards { warmup: Warmup::Steps(0), max_skips: None, ..cx.guards(Guards::default()) };
        Ok(Strategy::rule(self.rule(cx)?, guards))
    }
}

inventory::submit! {
    StrategyInfo {
        name: "magcache",
        summary: "skips while a calibrated curve bounds the error; decides before the first block",
        paper: "https://arxiv.org/abs/2506.09045",
        level: Level::Blocks,
        example: r#"
            strategy = "magcache"
            threshold = 0.12
            max_skips = 2
            warmup = 0.2
            ratios = [1.0, 1.0124, 1.0017, 0.9979, 0.9968, 0.9963, 0.9957, 0.9942, 0.9958, 0.9957, 0.99, 0.98]
        "#,
        never: r#"
            strategy = "magcache"
            threshold = 0.0
            ratios = [1.0, 0.99, 0.98, 0.97]
        "#,
        keys: keys_of::<MagCacheConfig>,
        origin: env!("CARGO_PKG_NAME"),
    }
}
