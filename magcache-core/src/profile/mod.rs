//! Calibration data with provenance: MagCache curves, TeaCache fits, SenCache sensitivities and planned
//! schedules of a model.

mod curve;
mod file;
mod fit;
mod part;
mod quality;
pub mod resample;
mod schedule_set;
mod sensitivity;
mod windowed;

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

pub use curve::{Curve, Recommended};
pub use fit::Fit;
pub use part::{OwnPart, Part};
pub use quality::{Grounds, Quality};
pub use schedule_set::{Held, PlannedSchedule, ScheduleSet, SearchedOn};
pub use sensitivity::Sensitivity;
pub use windowed::{SkippedPart, WindowedSchedule};

use crate::{ConfigError, Problem, error::nearest, meta};

/// Everything measured or published about one model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// The name in a configuration.
    pub name: String,
    /// The registered model that it was made for, if there is one.
    pub model: Option<String>,
    /// One line.
    pub summary: String,
    /// MagCache curves, the default variant first.
    pub curves: Vec<Curve>,
    /// TeaCache fits, the default variant first.
    pub fits: Vec<Fit>,
    /// SenCache sensitivities, the default variant first.
    pub sensitivities: Vec<Sensitivity>,
    /// Planned schedules, one entry per kind of run.
    pub plans: Vec<ScheduleSet>,
    /// Measurements of kinds defined by strategies, by kind.
    pub parts: BTreeMap<String, Vec<OwnPart>>,
}

/// Provenance of numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Their name in the collection of published constants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// File, with the line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The conditions of the measurement: command, model hash, prompts, device, date.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub measured: BTreeMap<String, toml::Value>,
    /// Notes for users.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Profile {
    /// The built-in profile of this name, or the profile in the file at this path.
    pub fn find(name: &str) -> Result<Self, ConfigError> {
        if let Some(info) = meta::profiles().iter().find(|p| p.name == name) {
            return Self::parse(info.toml, name);
        }
        let path = Path::new(name);
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("toml")) || path.is_file() {
            let read = std::fs::read_to_string(path);
            let text = read.map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
            return Self::parse(&text, name);
        }
        Err(ConfigError::UnknownName {
            place: "profile".to_owned(),
            kind: "profile",
            name: name.to_owned(),
            nearest: nearest(name, meta::profiles().iter().map(|p| p.name)),
        })
    }

    /// The profile of this name in memory, or else as [`Profile::find`].
    pub(crate) fn find_among(name: &str, profiles: &[Self]) -> Result<Self, ConfigError> {
        if let Some(own) = profiles.iter().find(|profile| profile.name == name) {
            return Ok(own.clone());
        }
        Self::find(name).map_err(|error| match error {
            ConfigError::UnknownName { place, kind, name, nearest: far } => {
                let near = nearest(&name, profiles.iter().map(|profile| &*profile.name));
                ConfigError::UnknownName { place, kind, name, nearest: near.or(far) }
            }
            other => other,
        })
    }

    /// Problems with every invalid value.
    pub fn problems(&self) -> Vec<Problem> {
        let mut out = Vec::new();
        for (i, curve) in self.curves.iter().enumerate() {
            curve.problems(&format!("profile {:?}, curve[{i}]", self.name), &mut out);
        }
        for (i, fit) in self.fits.iter().enumerate() {
            let place = format!("profile {:?}, fit[{i}]", self.name);
            fit.problems(&place, &mut out);
            let earlier = || self.fits[..i].iter().filter(|other| other.variant == fit.variant);
            if earlier().any(|other| other.expert == fit.expert) {
                let message = "a second fit of the same variant and expert";
                out.push(Problem::error(&place, message).hint("give it another `variant`, or its `expert`"));
            } else if let Some(other) = earlier().find(|other| other.signal != fit.signal) {
                let message = format!(
                    "`signal` is {:?}, another fit of the variant has {:?}",
                    fit.signal, other.signal
                );
                out.push(Problem::error(&place, message).hint("give it another `variant`"));
            }
        }
        for (i, sensitivity) in self.sensitivities.iter().enumerate() {
            let place = format!("profile {:?}, sensitivity[{i}]", self.name);
            out.extend(sensitivity.problems(&place));
        }
        for (i, plans) in self.plans.iter().enumerate() {
            out.extend(plans.problems(&format!("profile {:?}, plan[{i}]", self.name)));
        }
        out
    }

    /// The curves of a variant (all experts); without one, those of the default variant.
    pub fn curves_of(&self, variant: Option<&str>) -> Result<Vec<&Curve>, ConfigError> {
        self.of_variant("curve variant", variant, &self.curves, |one| one.variant.as_deref())
    }

    /// The fits of a variant (all experts); without one, those of the default variant.
    pub fn fits_of(&self, variant: Option<&str>) -> Result<Vec<&Fit>, ConfigError> {
        self.of_variant("fit variant", variant, &self.fits, |one| one.variant.as_deref())
    }

    /// The sensitivities of a variant (all experts); without one, those of the default variant.
    pub fn sensitivities_of(&self, variant: Option<&str>) -> Result<Vec<&Sensitivity>, ConfigError> {
        self.of_variant("sensitivity variant", variant, &self.sensitivities, |one| one.variant.as_deref())
    }

    /// The items of a variant; without one, those of the first.
    fn of_variant<'a, T>(
        &self,
        kind: &'static str,
        asked: Option<&str>,
        all: &'a [T],
        variant: impl Fn(&T) -> Option<&str>,
    ) -> Result<Vec<&'a T>, ConfigError> {
        let known = || all.iter().map(&variant);
        let wanted = match asked {
            None => known().next().flatten(),
            Some(_) if known().any(|name| name == asked) => asked,
            Some(name) => {
                return Err(ConfigError::UnknownName {
                    place: format!("profile {:?}", self.name),
                    kind,
                    name: name.to_owned(),
                    nearest: nearest(name, known().flatten()),
                });
            }
        };
        Ok(all.iter().filter(|one| variant(one) == wanted).collect())
    }
}
