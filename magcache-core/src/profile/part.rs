//! What a profile is made of, as strategies ask for it.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Profile, Provenance};
use crate::{ConfigError, Trajectory, error::syntax};

/// A kind of measurements in a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Magnitude ratios over the steps of a run: `[[curve]]`.
    Curves,
    /// Polynomials from the distance of a signal: `[[fit]]`.
    Fits,
    /// How much the prediction changes: `[[sensitivity]]`.
    Sensitivities,
    /// Planned schedules: `[[plan]]`, which a target reads and no strategy.
    Plans,
    /// A kind that a strategy brings, by its name: `[[part.NAME]]`.
    Own(&'static str),
}

/// A measurement of a kind that this crate does not know. Which keys it has is up to the strategy that reads it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OwnPart {
    /// Which of several; the first of a profile is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The keys of the strategy.
    #[serde(flatten)]
    pub keys: toml::Table,
    /// Where it comes from: what it holds for is judged by this.
    #[serde(default)]
    pub source: Provenance,
}

impl OwnPart {
    /// Its keys as the type that the strategy has for them, strictly; `place` names it in errors.
    pub fn read<T: DeserializeOwned>(&self, place: &str) -> Result<T, ConfigError> {
        self.keys.clone().try_into().map_err(|e: toml::de::Error| syntax(place, &e))
    }
}

impl Profile {
    /// The measurements of a kind that a strategy brings, of a variant; without one, those of the default variant.
    pub fn parts_of(&self, kind: &str, variant: Option<&str>) -> Result<Vec<&OwnPart>, ConfigError> {
        let all = self.parts.get(kind).map_or(&[][..], Vec::as_slice);
        self.of_variant("part variant", variant, all, |part| part.variant.as_deref())
    }

    /// Where what a run reads of a part comes from: of a variant, or of the default one.
    ///
    /// Errors: an unknown variant.
    pub fn sources(
        &self,
        part: Part,
        variant: Option<&str>,
        run: &Trajectory,
    ) -> Result<Vec<&Provenance>, ConfigError> {
        Ok(match part {
            Part::Curves => self.curves_of(variant)?.into_iter().map(|curve| &curve.source).collect(),
            Part::Fits => self.fits_of(variant)?.into_iter().map(|fit| &fit.source).collect(),
            Part::Sensitivities => self.sensitivities_of(variant)?.into_iter().map(|s| &s.source).collect(),
            Part::Plans => {
                self.plans.iter().filter(|plans| plans.fit(run)).map(|plans| &plans.source).collect()
            }
            Part::Own(kind) => self.parts_of(kind, variant)?.into_iter().map(|part| &part.source).collect(),
        })
    }

    /// Where everything in it comes from.
    pub fn all_sources(&self) -> impl Iterator<Item = &Provenance> {
        let curves = self.curves.iter().map(|curve| &curve.source);
        let fits = self.fits.iter().map(|fit| &fit.source);
        let sensitivities = self.sensitivities.iter().map(|sensitivity| &sensitivity.source);
        let plans = self.plans.iter().map(|plans| &plans.source);
        let own = self.parts.values().flatten().map(|part| &part.source);
        curves.chain(fits).chain(sensitivities).chain(plans).chain(own)
    }
}
