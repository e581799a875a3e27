//! `DiCache`'s forecast: a line through the residuals of the last two computed steps, followed as far as what
//! the first blocks add has moved along its own.

use candle_core::{Result, Tensor};
use magcache_core::{
    Problem, Streams,
    forecast::{Entered, Forecast, ForecastConfig, ForecastTable, forecast_table},
    inventory,
    keys::keys_of,
    meta::ForecastInfo,
    state::{StoragePolicy, Stored},
    typetag,
};
use serde::{Deserialize, Serialize};

/// The keys of `forecast = { type = "dicache" }`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AlignedConfig {
    /// Blocks at the start that run on every step, because they tell how far to go.
    #[schemars(range(min = 1))]
    pub probe: usize,
    /// The farthest that the line is followed, in distances between the last two computed steps; it is
    /// followed at least as far as the last of them, which is 1.
    #[schemars(range(min = 1.0))]
    pub cap: f64,
}

impl Default for AlignedConfig {
    fn default() -> Self {
        Self { probe: 1, cap: 2.0 }
    }
}

#[typetag::serde(name = "dicache")]
impl ForecastConfig for AlignedConfig {
    fn validate(&self, place: &str) -> Vec<Problem> {
        let mut out = Vec::new();
        if self.probe == 0 {
            let message = "`probe` of the forecast is 0, it must be at least 1";
            out.push(Problem::error(place, message).hint("1 is the published value"));
        }
        if !(self.cap >= 1.0 && self.cap.is_finite()) {
            let message = format!("`cap` of the forecast is {}, it must be a number of at least 1", self.cap);
            out.push(Problem::error(place, message).hint("published are 2 for Wan and 1.5 for FLUX"));
        }
        out
    }

    fn front(&self) -> usize {
        self.probe
    }

    fn build(&self) -> Box<dyn Forecast> {
        Box::new(Aligned::new(*self))
    }
}

inventory::submit! {
    ForecastInfo {
        name: "dicache",
        summary: "continues the residuals of the last two computed steps as far as the first blocks' have moved (DiCache)",
        paper: "https://arxiv.org/abs/2508.17356",
        keys: keys_of::<AlignedConfig>,
        line: None,
        origin: env!("CARGO_PKG_NAME"),
    }
}

/// The forecast of [`AlignedConfig`] in one slot.
///
/// With `R` the residual of the range and `P` that of its first blocks on the denoised stream, 1 the last
/// computed step and 2 the one before it:
/// `out = input + R₂ + gain·(R₁ − R₂)`, `gain = mean|P − P₂| / mean|P₁ − P₂|` of every row of a batch, at
/// least 1 and at most `cap`, and 1 if it is not finite. Behind a single computed step its residual is
/// repeated.
#[derive(Debug)]
pub struct Aligned {
    config: AlignedConfig,
    last: Option<Anchor>,
    before: Option<Anchor>,
}

/// A computed step.
#[derive(Clone, Debug)]
struct Anchor {
    step: usize,
    /// What the range added to its input.
    residual: Stored,
    /// What its first blocks added to the denoised stream.
    probe: Stored,
}

magcache_core::fields!(Aligned { last, before } given { config });
magcache_core::fields!(Anchor { step, residual, probe });

impl Aligned {
    /// A forecast without history.
    pub fn new(config: AlignedConfig) -> Self {
        Self { config, last: None, before: None }
    }

    /// How far along the line from the older anchor to the newer one, by row: `[batch, 1, 1]`.
    fn gain(&self, at: &Entered<'_>, now: &Tensor, last: &Anchor, before: &Anchor) -> Result<Tensor> {
        let (last, before) = (last.probe.load()?.into_image()?, before.probe.load()?.into_image()?);
        let gains = at.ratio_of_changes([now, &before], [&last, &before])?;
        let bounded = |gain: f64| if gain.is_finite() { gain.clamp(1.0, self.config.cap) } else { 1.0 };
        let gains: Vec<f32> = gains.into_iter().map(|gain| bounded(gain) as f32).collect();
        Tensor::from_vec(gains, (now.dim(0)?, 1, 1), now.device())?.to_dtype(now.dtype())
    }
}

/// What the first blocks added to the denoised stream.
fn probed(at: &Entered<'_>) -> Result<Tensor> {
    at.x.image()?.sub(&at.input.image()?)
}

impl Forecast for Aligned {
    fn observe(&mut self, at: &Entered<'_>, y: &Streams, storage: &StoragePolicy) -> Result<()> {
        let step = at.step.index;
        let residual = Stored::new(&y.sub(at.input)?, storage)?;
        let probe = Stored::new(&Streams::Image(probed(at)?), storage)?;
        let last = self.last.replace(Anchor { step, residual, probe });
        // A run that started over begins without history.
        self.before = last.filter(|last| last.step < step);
        Ok(())
    }

    fn predict(&self, at: &Entered<'_>) -> Result<Option<Streams>> {
        let Some(last) = self.last.as_ref().filter(|last| last.step < at.step.index) else { return Ok(None) };
        let newer = last.residual.load()?;
        let residual = match &self.before {
            None => newer,
            Some(before) => {
                let gain = self.gain(at, &probed(at)?, last, before)?;
                let older = before.residual.load()?;
                let along = newer.sub(&older)?.map(|t| t.broadcast_mul(&gain))?;
                older.add(&along)?
            }
        };
        at.input.add(&residual).map(Some)
    }

    fn needs_input(&self) -> bool {
        true
    }

    fn table(&self) -> Option<ForecastTable> {
        forecast_table(&self.config)
    }
}
