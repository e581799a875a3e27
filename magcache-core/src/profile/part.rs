//! The parts of a profile, as strategies read them.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Profile, Provenance};
use crate::{
    ConfigError, Trajectory,
    table::{read, write},
};

/// A kind of measurement in a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Magnitude ratios over the steps of a run: `[[curve]]`.
    Curves,
    /// Polynomials of the distance of a signal: `[[fit]]`.
    Fits,
    /// How much the prediction changes: `[[sensitivity]]`.
    Sensitivities,
    /// Planned schedules: `[[plan]]`, read by targets and not by strategies.
    Schedules,
    /// A kind defined by a strategy, by its name: `[[part.NAME]]`.
    Own(&'static str),
}

/// A measurement of a kind unknown to this crate. Its keys are defined by the strategy that reads it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OwnPart {
    /// The variant, if there are several; the first of a profile is the default.
    pub variant: Option<String>,
    /// The keys of the strategy.
    pub keys: toml::Table,
    /// Its provenance, from which it is judged whether it applies to a run.
    pub source: Provenance,
}

/// The keys of every own part.
#[derive(Serialize, Deserialize)]
struct Common {
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
    #[serde(default)]
    source: Provenance,
}

impl OwnPart {
    /// Reads its keys strictly as the strategy's type; `place` names it in errors.
    pub fn read<T: DeserializeOwned>(&self, place: &str) -> Result<T, ConfigError> {
        read(place, self.keys.clone())
    }

    /// Reads a `[[part.NAME]]` table; `place` names it in errors.
    pub(super) fn from_table(place: &str, mut table: toml::Table) -> Result<Self, ConfigError> {
        let mut common = toml::Table::new();
        for key in ["variant", "source"] {
            common.extend(table.remove_entry(key));
        }
        let Common { variant, source } = read(place, common)?;
        Ok(Self { variant, keys: table, source })
    }

    /// The table that [`OwnPart::from_table`] reads back.
    pub(super) fn to_table(&self, place: &str) -> Result<toml::Table, ConfigError> {
        let common = Common { variant: self.variant.clone(), source: self.source.clone() };
        let mut table = write(place, &common)?;
        table.extend(self.keys.clone());
        Ok(table)
    }
}

impl Profile {
    /// The measurements of a kind defined by a strategy, for a variant; without one, those of the default
    /// variant.
    pub fn parts_of(&self, kind: &str, variant: Option<&str>) -> Result<Vec<&OwnPart>, ConfigError> {
        let all = self.parts.get(kind).map_or(&[][..], Vec::as_slice);
        self.of_variant("part variant", variant, all, |part| part.variant.as_deref())
    }

    /// The provenance of everything that a run reads of a part, for a variant or the default one.
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
            Part::Schedules => {
                self.plans.iter().filter(|plans| plans.fit(run)).map(|plans| &plans.source).collect()
            }
            Part::Own(kind) => self.parts_of(kind, variant)?.into_iter().map(|part| &part.source).collect(),
        })
    }

    /// The provenance of everything in the profile.
    pub fn all_sources(&self) -> impl Iterator<Item = &Provenance> {
        let curves = self.curves.iter().map(|curve| &curve.source);
        let fits = self.fits.iter().map(|fit| &fit.source);
        let sensitivities = self.sensitivities.iter().map(|sensitivity| &sensitivity.source);
        let plans = self.plans.iter().map(|plans| &plans.source);
        let own = self.parts.values().flatten().map(|part| &part.source);
        curves.chain(fits).chain(sensitivities).chain(plans).chain(own)
    }
}
