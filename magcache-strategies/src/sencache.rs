//! SenCache: a first-order bound on how far the prediction has moved since it was last computed, from
//! sensitivities calibrated once (Haghighi and Alahi, "Accelerating Diffusion Model Inference via
//! Sensitivity-Aware Caching", arXiv 2602.24208).
//!
//! Reuses while `latent(t')·rms(x − x') + timestep(t')·|t − t'| < ε`, with primes for the last computed step,
//! whose sensitivities apply until the next one. ε is smaller in the first part of a run, at most `max_skips`
//! steps are skipped in a row, and the conditional branch decides for the others. The decisions equal those
//! of vita-epfl/SenCache (`Wan2.1/sencache.py`, commit 4bf419b), which uses norms instead of root mean
//! squares: our ε is independent of the size of the latents, theirs contains a factor `√elements`. A skipped
//! step repeats the last computed prediction, as in the paper; the published script reuses the residual of
//! the blocks instead, and runs embedding and head.

use candle_core::Tensor;
use magcache_core::{
    Branch, BuildCx, CacheConfig, ConfigError, Expert, Guards, Head, Level, Problem, Step, Strategy,
    StrategyInfo, Streams, TimestepCache, Verdict, Warmup, Why,
    forecast::{Forecast, LastOutput},
    inventory,
    keys::keys_of,
    metrics,
    profile::{Part, Provenance, Sensitivity},
    strategy::Branches,
    typetag,
};
use serde::{Deserialize, Serialize};

/// The paper's choice for Wan2.1: ε for the first part of a run, and for the rest.
const THRESHOLDS: [f64; 2] = [0.005, 0.07];

/// The keys of `strategy = "sencache"`. What is not given comes from the sensitivities of the table's
/// profile.
#[derive(Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SenCacheConfig {
    /// Bound of the predicted change (the paper's ε), in units of the prediction. Without it that of the
    /// sensitivities, else 0.07.
    #[schemars(range(min = 0.0), extend("target" = [0, 2]))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// The same in the first part of the run. Without it that of the sensitivities, else 0.005.
    #[schemars(range(min = 0.0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_threshold: Option<f64>,
    /// How long that part is: steps, or a fraction of the run; 0.2 without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early: Option<Warmup>,
    /// Sensitivities in place of the profile's: one table, or one for every expert.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sensitivity: Vec<Inline>,
}

/// Sensitivities in a configuration; the fields are those of a profile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Inline {
    /// The number of the expert, from 0, for a model with several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert: Option<u8>,
    /// Where they were measured, 0 to 1000, in the order of a run.
    pub timesteps: Vec<f64>,
    /// How much the prediction changes with the latents.
    pub latent: Vec<f64>,
    /// How much it changes with the timestep.
    pub timestep: Vec<f64>,
}

impl Inline {
    fn sensitivity(&self) -> Sensitivity {
        Sensitivity {
            variant: None,
            expert: self.expert,
            timesteps: self.timesteps.clone(),
            latent: self.latent.clone(),
            timestep: self.timestep.clone(),
            thresholds: None,
            source: Provenance::default(),
        }
    }
}

/// The strategy.
#[derive(Clone, Debug)]
pub struct SenCache {
    threshold: f64,
    early_threshold: f64,
    early: Warmup,
    sensitivities: Vec<Sensitivity>,
}

/// The state of one slot: latents and timestep of the last computed step.
#[derive(Debug, Default)]
pub struct SenState {
    reference: Option<Reference>,
}

#[derive(Debug)]
struct Reference {
    latents: Tensor,
    timestep: f64,
}

magcache_core::fields!(SenState { reference });
magcache_core::fields!(Reference { latents, timestep });

impl SenCache {
    fn threshold_at(&self, step: &Step) -> f64 {
        let early = step.index < self.early.steps(step.total);
        if early { self.early_threshold } else { self.threshold }
    }

    fn of(&self, expert: Expert) -> Option<&Sensitivity> {
        let own = self.sensitivities.iter().find(|s| s.expert == Some(expert.0));
        own.or_else(|| self.sensitivities.iter().find(|s| s.expert.is_none()))
    }
}

impl TimestepCache for SenCache {
    type State = SenState;

    fn forecast(&self, _: &Step) -> Box<dyn Forecast> {
        Box::new(LastOutput::default())
    }

    fn threshold(&self, step: &Step) -> Option<f64> {
        Some(self.threshold_at(step))
    }

    fn head(
        &self,
        state: &mut SenState,
        step: &Step,
        _: Branch,
        x: &Head<'_>,
    ) -> candle_core::Result<Verdict> {
        let Some(reference) = &state.reference else { return Ok(Verdict::compute(Why::NoHistory)) };
        let Some((latent, timestep)) = self.of(step.expert).and_then(|s| s.at(reference.timestep)) else {
            return Ok(Verdict::compute(Why::Gate));
        };
        let moved = metrics::worst(metrics::rms_difference(&x.input.image()?, &reference.latents)?);
        let score = latent * moved + timestep * (step.timestep - reference.timestep).abs();
        Ok(Verdict::below(score, self.threshold_at(step)).metric(moved))
    }

    fn tail(
        &self,
        state: &mut SenState,
        step: &Step,
        _: Branch,
        x: &Streams,
        _: &Streams,
    ) -> candle_core::Result<()> {
        state.reference = Some(Reference { latents: x.image()?, timestep: step.timestep });
        Ok(())
    }
}

impl SenCacheConfig {
    fn sensitivities(&self, cx: &BuildCx<'_>) -> Result<Vec<Sensitivity>, ConfigError> {
        if !self.sensitivity.is_empty() {
            return Ok(self.sensitivity.iter().map(Inline::sensitivity).collect());
        }
        let found = cx.words.profile().map(|p| p.sensitivities_of(cx.words.variant())).transpose()?;
        Ok(found.unwrap_or_default().into_iter().cloned().collect())
    }

    fn strategy(&self, cx: &BuildCx<'_>) -> Result<SenCache, ConfigError> {
        let sensitivities = self.sensitivities(cx)?;
        let [early, main] = sensitivities.iter().find_map(|s| s.thresholds).unwrap_or(THRESHOLDS);
        Ok(SenCache {
            threshold: self.threshold.unwrap_or(main),
            early_threshold: self.early_threshold.unwrap_or(early),
            early: self.early.unwrap_or(Warmup::Fraction(0.2)),
            sensitivities,
        })
    }

    fn check(&self, cx: &BuildCx<'_>, out: &mut Vec<Problem>) -> Result<(), ConfigError> {
        let place = cx.place;
        let cache = self.strategy(cx)?;
        for (i, inline) in self.sensitivity.iter().enumerate() {
            out.extend(inline.sensitivity().problems(&format!("{place}, sensitivity[{i}]")));
        }
        let wanted = 0..u8::try_from(cx.model.experts.len()).unwrap_or(u8::MAX);
        let without: Vec<u8> = wanted.filter(|e| cache.of(Expert(*e)).is_none()).collect();
        if cache.sensitivities.is_empty() {
            let hint = "name a profile that has them, or give `sensitivity`";
            out.push(Problem::error(place, "sencache needs sensitivities and there are none").hint(hint));
        } else if !without.is_empty() {
            let message = format!("no sensitivities for expert {without:?} of {}", cx.model.experts.len());
            out.push(
                Problem::error(place, message).hint("one table for every expert, or one without `expert`"),
            );
        }
        out.extend(Problem::unless_in(place, "threshold", cache.threshold, 0.0, f64::MAX));
        out.extend(Problem::unless_in(place, "early_threshold", cache.early_threshold, 0.0, f64::MAX));
        if !cache.early.is_valid() {
            out.push(Problem::error(place, "`early` as a fraction must be between 0 and 1"));
        }
        Ok(())
    }
}

#[typetag::serde(name = "sencache")]
impl CacheConfig for SenCacheConfig {
    fn validate(&self, cx: &BuildCx<'_>) -> Vec<Problem> {
        let mut out = Vec::new();
        if let Err(error) = self.check(cx, &mut out) {
            out.push(Problem::error(cx.place, error.to_string()));
        }
        out
    }

    fn reads(&self) -> Vec<Part> {
        if self.sensitivity.is_empty() { vec![Part::Sensitivities] } else { Vec::new() }
    }

    fn build(&self, cx: &BuildCx<'_>) -> Result<Strategy, ConfigError> {
        let guards = Guards {
            warmup: Warmup::Steps(1),
            last_steps: 1,
            max_skips: Some(3),
            branches: Branches::CondDecides,
            ..Guards::default()
        };
        Ok(Strategy::cache(self.strategy(cx)?, cx.guards(guards)))
    }
}

inventory::submit! {
    StrategyInfo {
        name: "sencache",
        summary: "skips whole forwards while calibrated sensitivities bound how far the prediction has moved",
        paper: "https://arxiv.org/abs/2602.24208",
        level: Level::Forward,
        example: r#"
            strategy = "sencache"
            threshold = 0.2
            early_threshold = 0.1
            sensitivity = [
                { timesteps = [1000.0, 750.0, 500.0, 250.0, 0.0], latent = [1.2, 1.0, 0.9, 1.0, 1.3], timestep = [4e-4, 3e-4, 3e-4, 4e-4, 5e-4] },
            ]
        "#,
        never: r#"
            strategy = "sencache"
            threshold = 0.0
            early_threshold = 0.0
            sensitivity = [{ timesteps = [1000.0, 0.0], latent = [1.0, 1.0], timestep = [0.001, 0.001] }]
        "#,
        keys: keys_of::<SenCacheConfig>,
        origin: env!("CARGO_PKG_NAME"),
    }
}
