//! TeaCache: the change of a cheap signal since the previous step predicts the change of the output
//! (Liu et al., "Timestep Embedding Tells: It's Time to Cache", arXiv 2411.19108).
//!
//! Distances are between consecutive steps, including skipped ones; the accumulator is reset at every
//! computed step. Equals ali-vilab/TeaCache (commit 7c10efc), with one difference: a distance outside the
//! range that the fit was made on is clamped to it. Published fits come without a range and are used as they
//! are.

use magcache_core::{
    BuildCx, CacheConfig, ConfigError, Expert, Guards, Level, Problem, Rule, Signal, Step, Strategy,
    StrategyInfo, Verdict, Warmup, Why, inventory,
    keys::keys_of,
    profile::{Fit, Part},
    strategy::{Measure, Norm, Quantity, Seen, Since},
    typetag,
};
use serde::{Deserialize, Serialize};

const THRESHOLD: f64 = 0.08;

/// How a distance is rescaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "keys", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// By the fitted polynomial.
    Polynomial,
    /// Not at all: for models without a fit.
    Linear,
}

/// The keys of `strategy = "teacache"`. What is not given comes from the fit of the table's profile.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "keys", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TeaCacheConfig {
    /// Bound of the accumulated, rescaled distance; a larger one skips more. Without it that of the fit, else
    /// 0.08.
    #[cfg_attr(feature = "keys", schemars(range(min = 0.0), extend("target" = [0, 2])))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// How a distance is rescaled. Without it by the fit; where there is none, it must be said to be
    /// `linear`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// A polynomial in place of the profile's fit, highest power first.
    #[cfg_attr(feature = "keys", schemars(extend("unless" = { "policy": "linear" })))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coefficients: Option<Vec<f64>>,
    /// What is compared. Without it that of the fit, else `modulated-input`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<Signal>,
    /// Lowest and highest distance that the polynomial was fitted on; others are clamped to them. Without it
    /// those of the fit.
    #[cfg_attr(feature = "keys", schemars(extend("unless" = { "policy": "linear" })))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fitted_range: Option<[f64; 2]>,
}

/// The strategy.
#[derive(Clone, Debug)]
pub struct TeaCache {
    /// Bound of the accumulated distance.
    pub threshold: f64,
    /// The signal that is compared.
    pub signal: Signal,
    /// Polynomials by expert; an expert without one uses the distance itself.
    pub rescalings: Vec<Rescaling>,
}

/// The polynomial of an expert.
#[derive(Clone, Debug, PartialEq)]
pub struct Rescaling {
    /// The expert; `None` for all experts without their own polynomial.
    pub expert: Option<Expert>,
    /// Coefficients, highest power first.
    pub coefficients: Vec<f64>,
    /// The range that distances are clamped to.
    pub fitted_range: Option<[f64; 2]>,
}

impl From<&Fit> for Rescaling {
    fn from(fit: &Fit) -> Self {
        let expert = fit.expert.map(Expert);
        Self { expert, coefficients: fit.coefficients.clone(), fitted_range: fit.fitted_range }
    }
}

impl Rescaling {
    /// The predicted change of the output. It can be negative, as with the published polynomials.
    pub fn at(&self, distance: f64) -> f64 {
        let distance = match self.fitted_range {
            Some([low, high]) => distance.clamp(low, high),
            None => distance,
        };
        self.coefficients.iter().fold(0.0, |y, c| y * distance + c)
    }
}

impl TeaCache {
    /// The expert's own polynomial, or the one for all experts.
    fn of(&self, expert: Expert) -> Option<&Rescaling> {
        let own = self.rescalings.iter().find(|r| r.expert == Some(expert));
        own.or_else(|| self.rescalings.iter().find(|r| r.expert.is_none()))
    }

    /// The accumulator after a step of `expert` with this distance, and the verdict.
    pub fn accumulate(&self, expert: Expert, accumulated: f64, distance: f64) -> (f64, Verdict) {
        let accumulated = accumulated + self.of(expert).map_or(distance, |own| own.at(distance));
        (accumulated, Verdict::below(accumulated, self.threshold).metric(distance))
    }
}

impl Rule for TeaCache {
    fn measure(&self) -> Option<Measure> {
        let of = Quantity::Signal(self.signal);
        Some(Measure { of, since: Since::Previous, norm: Norm::L1, every: 1 })
    }

    fn threshold(&self, _: &Step) -> Option<f64> {
        Some(self.threshold)
    }

    /// Carries the accumulated distance.
    fn decide(&self, seen: &Seen<'_>, carried: &mut Option<f64>) -> Verdict {
        let Some(distance) = seen.measured else { return Verdict::compute(Why::NoHistory) };
        // The published code computes the distance in f32.
        let distance = f64::from(distance as f32);
        let (accumulated, verdict) = self.accumulate(seen.step.expert, carried.unwrap_or_default(), distance);
        *carried = Some(accumulated);
        verdict
    }
}

/// The profile's fits, if the table has a profile.
fn fits_of<'a>(cx: &'a BuildCx<'_>) -> Result<Vec<&'a Fit>, ConfigError> {
    Ok(cx.words.profile().map(|p| p.fits_of(cx.words.variant())).transpose()?.unwrap_or_default())
}

impl TeaCacheConfig {
    fn strategy(&self, cx: &BuildCx<'_>) -> Result<(TeaCache, Guards), ConfigError> {
        let fits = fits_of(cx)?;
        // Settings common to the fits of several experts are taken from the first.
        let fit = fits.first();
        let ranged = |r: Rescaling| Rescaling { fitted_range: self.fitted_range.or(r.fitted_range), ..r };
        let rescalings = match &self.coefficients {
            _ if self.policy == Some(Policy::Linear) => Vec::new(),
            Some(own) => {
                vec![Rescaling { expert: None, coefficients: own.clone(), fitted_range: self.fitted_range }]
            }
            None => fits.iter().map(|fit| ranged(Rescaling::from(*fit))).collect(),
        };
        let cache = TeaCache {
            threshold: self
                .threshold
                .or(fit.and_then(|f| f.thresholds.first().copied()))
                .unwrap_or(THRESHOLD),
            signal: self.signal.or(fit.map(|f| f.signal)).unwrap_or(Signal::ModulatedInput),
            rescalings,
        };
        let guards = Guards {
            warmup: fit.map_or(Warmup::Steps(1), |f| f.warmup),
            last_steps: fit.map_or(1, |f| f.last_steps),
            ..Guards::default()
        };
        Ok((cache, cx.guards(guards)))
    }

    fn check(&self, cx: &BuildCx<'_>, out: &mut Vec<Problem>) -> Result<(), ConfigError> {
        let place = cx.place;
        if fits_of(cx)?.is_empty() && self.coefficients.is_none() && self.policy != Some(Policy::Linear) {
            out.push(match cx.words.profile() {
                Some(_) => Problem::error(place, "teacache needs a fit and the profile has none")
                    .hint("name a profile with a fit, give `coefficients`, or set policy = \"linear\""),
                None => {
                    let message =
                        format!("no fit of {} is known: distances count as they are", cx.model.name);
                    Problem::warning(place, message).hint(
                        "policy = \"linear\" says so; a profile with a fit or `coefficients` make it better",
                    )
                }
            });
        }
        out.extend(Fit::polynomial_problems(place, self.coefficients.as_deref(), self.fitted_range));
        let (cache, _) = self.strategy(cx)?;
        out.extend(without_fit(&cache, cx));
        out.extend(Problem::unless_in(place, "threshold", cache.threshold, 0.0, f64::MAX));
        if !cx.model.signals.contains(&cache.signal) {
            let message = format!("model {:?} does not show the signal {:?}", cx.model.name, cache.signal);
            let hint = match &*cx.model.signals {
                [] => "it shows none: use a strategy that needs no signal, such as fbcache".to_owned(),
                shown => format!("it shows {shown:?}"),
            };
            out.push(Problem::error(place, message).hint(hint));
        }
        Ok(())
    }
}

/// An error for experts without a fit, if other experts of the table have one.
fn without_fit(cache: &TeaCache, cx: &BuildCx<'_>) -> Option<Problem> {
    let all: Vec<Expert> = (0..u8::try_from(cx.model.experts.len()).unwrap_or(u8::MAX)).map(Expert).collect();
    let wanted = if cx.experts.is_empty() { &all } else { cx.experts };
    let name = |expert: &Expert| cx.model.experts.get(usize::from(expert.0)).copied().unwrap_or("unknown");
    let without: Vec<&str> = wanted.iter().filter(|e| cache.of(**e).is_none()).map(name).collect();
    let message = format!("no fit for the experts {without:?}");
    let hint = "calibrate with more steps, or name the others: experts = [...]";
    (!cache.rescalings.is_empty() && !without.is_empty())
        .then(|| Problem::error(cx.place, message).hint(hint))
}

#[typetag::serde(name = "teacache")]
impl CacheConfig for TeaCacheConfig {
    fn validate(&self, cx: &BuildCx<'_>) -> Vec<Problem> {
        let mut out = Vec::new();
        if let Err(error) = self.check(cx, &mut out) {
            out.push(Problem::error(cx.place, error.to_string()));
        }
        out
    }

    fn reads(&self) -> Vec<Part> {
        if self.coefficients.is_some() || self.policy == Some(Policy::Linear) {
            Vec::new()
        } else {
            vec![Part::Fits]
        }
    }

    fn build(&self, cx: &BuildCx<'_>) -> Result<Strategy, ConfigError> {
        let (cache, guards) = self.strategy(cx)?;
        Ok(Strategy::rule(cache, guards))
    }
}

inventory::submit! {
    StrategyInfo {
        name: "teacache",
        summary: "skips while a signal of the model, rescaled by a fit, has moved little since the last computed step",
        paper: "https://arxiv.org/abs/2411.19108",
        level: Level::Blocks,
        example: r#"
            strategy = "teacache"
            threshold = 0.3
            policy = "linear"
            signal = "modulated-input"
        "#,
        never: r#"
            strategy = "teacache"
            threshold = 0.0
            policy = "linear"
            signal = "modulated-input"
        "#,
        keys: keys_of::<TeaCacheConfig>,
        origin: env!("CARGO_PKG_NAME"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_polynomial_has_its_highest_power_first_and_may_be_negative() {
        let fit =
            Rescaling { expert: None, coefficients: vec![2.0, 0.0, -1.0], fitted_range: Some([0.0, 2.0]) };
        assert_eq!(fit.at(0.5), -0.5);
        assert_eq!(fit.at(9.0), 7.0, "clamped to 2");
        assert_eq!(Rescaling { fitted_range: None, ..fit }.at(3.0), 17.0);
    }

    #[test]
    fn an_expert_takes_its_own_polynomial_before_the_common_one() {
        let by = |expert: Option<u8>, factor: f64| Rescaling {
            expert: expert.map(Expert),
            coefficients: vec![factor, 0.0],
            fitted_range: None,
        };
        let mut tea = TeaCache {
            threshold: 1.0,
            signal: Signal::ModulatedInput,
            rescalings: vec![by(None, 2.0), by(Some(1), 3.0)],
        };
        let moved = |tea: &TeaCache, expert| tea.accumulate(Expert(expert), 0.5, 0.1).0;
        assert!((moved(&tea, 0) - 0.7).abs() < 1e-12 && (moved(&tea, 1) - 0.8).abs() < 1e-12);
        tea.rescalings.clear();
        assert!((moved(&tea, 1) - 0.6).abs() < 1e-12, "the distance itself");
    }
}
