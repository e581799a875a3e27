//! A measured profile and the rows stored next to it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::Device;
use magcache_core::{
    Signal, Warmup,
    calibrate::{Distances, Recording, Response},
    error::count,
    profile::{Profile, Provenance},
};

use super::{Conditions, Planning, plans};
use crate::{console::bad_input_with, media};

/// How many first and last steps TeaCache's published fits always compute, by signal.
const fn edges(signal: Signal) -> (usize, usize) {
    match signal {
        Signal::TimestepProjection => (5, 0),
        Signal::ModulatedInput | Signal::TimestepEmbedding | Signal::Latents => (1, 1),
    }
}

/// Suitable thresholds for a fit, the default first: those of the published TeaCache fits.
const THRESHOLDS: [f64; 3] = [0.08, 0.1, 0.15];

/// A recording and the conditions it was made under.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) conditions: Conditions,
    pub(crate) recording: Recording,
}

impl Measured {
    /// Reads a profile written by `calibrate`, with its rows.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let profile = Profile::find(&path.display().to_string())?;
        let measured = profile.curves.first().map(|curve| curve.source.measured.clone()).unwrap_or_default();
        let table = toml::Table::from_iter(measured);
        let conditions = table.try_into().map_err(|error: toml::de::Error| {
            let message =
                format!("{} was not written by `magcache calibrate`: {}", path.display(), error.message());
            bad_input_with(message, "a published or older profile has no rows to merge")
        })?;
        let rows = rows_of(path);
        let tensors = candle_core::safetensors::load(&rows, &Device::Cpu).map_err(|error| {
            let message =
                format!("cannot read the rows of {} in {}: {error}", path.display(), rows.display());
            bad_input_with(message, "they are written beside the profile: keep both")
        })?;
        let recording = Recording::from_tensors(&tensors).with_context(|| rows.display().to_string())?;
        Ok(Self { conditions, recording })
    }

    /// Merges another calibration made under the same conditions.
    pub(crate) fn join(&mut self, other: Self, place: &str) -> Result<()> {
        self.conditions.join(other.conditions, place)?;
        Ok(self.recording.join(other.recording)?)
    }

    pub(crate) fn profile(&self, name: &str, model: &str, planning: Planning) -> Result<Profile> {
        let source = |rows: Option<usize>| -> Result<Provenance> {
            let mut measured = self.conditions.table()?;
            measured.extend(rows.map(|rows| ("rows".to_owned(), toml::Value::Integer(rows as i64))));
            Ok(Provenance { measured, ..Provenance::default() })
        };
        let mut curve = self.recording.curve();
        curve.flow_shift = self.conditions.number("flow_shift");
        curve.boundary_ratio = self.conditions.number("boundary_ratio");
        curve.source = source(None)?;
        let mut fits = Vec::new();
        for signal in self.recording.signals() {
            let variant = (!fits.is_empty()).then(|| word(signal));
            for mut fit in self.recording.fits(signal) {
                let own = |row: &&Distances| fit.expert.is_none_or(|expert| row.expert.0 == expert);
                let rows = self.recording.distances.iter().filter(own).count();
                let (first, last) = edges(signal);
                (fit.warmup, fit.last_steps) = (Warmup::Steps(first), last);
                fit.thresholds = THRESHOLDS.to_vec();
                fit.variant.clone_from(&variant);
                fit.source = source(Some(rows))?;
                fits.push(fit);
            }
        }
        let mut sensitivities = self.recording.sensitivities();
        for one in &mut sensitivities {
            let own = |row: &&Response| one.expert.is_none_or(|expert| row.expert.0 == expert);
            one.source = source(Some(self.recording.responses.iter().filter(own).count()))?;
        }
        Ok(Profile {
            name: name.to_owned(),
            model: Some(model.to_owned()),
            summary: format!(
                "measured: {} of {}",
                count(self.conditions.runs, "run"),
                count(self.recording.steps, "step")
            ),
            curves: vec![curve],
            fits,
            sensitivities,
            plans: plans(&self.recording, &self.conditions, planning, source(None)?)?.into_iter().collect(),
            ..Profile::default()
        })
    }

    /// Writes the rows, then the profile made of them; each file is written atomically.
    pub(crate) fn write(&self, path: &Path, profile: &Profile) -> Result<Vec<PathBuf>> {
        let rows = rows_of(path);
        let bytes = safetensors::serialize(self.recording.to_tensors()?, None)?;
        media::write_file(&rows, &bytes)?;
        media::write_file(path, profile.to_toml()?.as_bytes())?;
        Ok(vec![path.to_owned(), rows])
    }
}

pub(crate) fn rows_of(profile: &Path) -> PathBuf {
    profile.with_extension("safetensors")
}

/// A signal's name in configurations.
fn word(signal: Signal) -> String {
    toml::Value::try_from(signal).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}
