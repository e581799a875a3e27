//! Whether a profile's data is valid for a run: exact, usable or refused.
//!
//! How much a difference weighs depends on what a strategy reads. A curve is read by step, so a change of the
//! schedule that moves the boundary between experts puts the curve's dip into the wrong phase; fits are read
//! by distance and sensitivities by timestep, which other schedules share. Nothing measured on other weights
//! is valid. A published profile records little about its measurement: it is usable at best, with a note of
//! what it does not record.

use std::fmt;

use magcache_core::{
    Branch, ModelMeta, Trajectory,
    error::count,
    meta,
    profile::{Curve, Part, Profile},
};
use magcache_models::pipeline::SamplingOption;
use serde::Serialize;
use serde_json::{Value, json};

use super::Facts;

/// Ordered from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// Measured under the run's conditions, as far as the profile records them.
    Exact,
    /// Resampled, or measured under conditions whose difference matters little.
    Usable,
    /// Measured on something else.
    Refused,
}

/// A condition that differs, with both values, and the resulting verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reason {
    pub(crate) verdict: Verdict,
    pub(crate) text: String,
}

/// Facts about a run that are known before it starts.
#[derive(Debug)]
pub(crate) struct Known<'a> {
    /// The model; `None` if it is the profile's own.
    pub(crate) model: Option<&'a ModelMeta>,
    pub(crate) run: &'a Trajectory,
    /// Its conditions, keyed by the names that `calibrate` writes.
    pub(crate) facts: Facts,
    pub(crate) checkpoint: WeightsHash,
}

/// The weights of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WeightsHash {
    /// SHA-256 of the network's tensors.
    Of(String),
    /// Not hashed because of their size, given in bytes.
    Unread(u64),
    /// The run has no weights yet.
    None,
}

/// Conditions that are compared if both sides have them, in addition to those of the options.
const COMPARED: [&str; 4] = ["dtype", "device", "attention", "image"];

/// The condition with the number formats of the network's tensors.
const WEIGHTS: &str = "weights";

/// The condition with its adapters.
const ADAPTERS: &str = "adapters";

/// Conditions without which it is unclear what was measured.
const NEEDED: [&str; 4] = ["checkpoint", "guidance", "width", "height"];

struct Measured<'a> {
    facts: Facts,
    /// Only for a curve.
    curve: Option<&'a Curve>,
}

impl Reason {
    fn usable(text: String) -> Self {
        Self { verdict: Verdict::Usable, text }
    }

    fn refused(text: String) -> Self {
        Self { verdict: Verdict::Refused, text }
    }
}

/// All reasons against using `part` of a variant of `profile`, which the configuration calls `name`, for a
/// run; the worst first. Empty means exact.
///
/// With `searched` the schedule is the best one of many that were run, and so for these options alone.
pub(crate) fn reasons(
    (name, profile): (&str, &Profile),
    (part, searched): (Part, bool),
    variant: Option<&str>,
    known: &Known<'_>,
) -> Vec<Reason> {
    let other = known.model.and_then(|model| other_model(name, profile, model));
    let mut out: Vec<Reason> = other.into_iter().collect();
    for measured in measured(profile, part, variant, known.run) {
        for reason in measured.reasons(known, searched) {
            if !out.contains(&reason) {
                out.push(reason);
            }
        }
    }
    out.sort_by_key(|reason| std::cmp::Reverse(reason.verdict));
    out
}

/// Unknown variants were rejected when the caches were built, so here they have nothing to compare.
fn measured<'a>(
    profile: &'a Profile,
    part: Part,
    variant: Option<&str>,
    run: &Trajectory,
) -> Vec<Measured<'a>> {
    // The settings that a curve is read with are stored next to its provenance.
    if part == Part::Curves {
        let curves = profile.curves_of(variant).unwrap_or_default();
        return curves.into_iter().map(Measured::of_curve).collect();
    }
    let sources = profile.sources(part, variant, run).unwrap_or_default();
    sources.into_iter().map(|source| Measured { facts: source.measured.clone(), curve: None }).collect()
}

/// The reason against a profile of another model, or of the same model in another size.
fn other_model(name: &str, profile: &Profile, model: &ModelMeta) -> Option<Reason> {
    let built_in = meta::profiles().iter().any(|p| p.name == name);
    match &profile.model {
        Some(of) if *of != model.name => Some(of.as_str()),
        Some(_) if built_in && !model.profiles.contains(&name) => Some(name),
        Some(_) => None,
        // A built-in profile without a model belongs to one that this program does not have.
        None if built_in => Some(name),
        None => return Some(Reason::usable("it does not say which model it is of".to_owned())),
    }
    .map(|of| Reason::refused(format!("it is of {of}, the run's model is {}", described(model))))
}

/// A model by name; one without profiles of its own is another checkpoint of that family.
fn described(model: &ModelMeta) -> String {
    let (blocks, width) = (count(model.blocks(), "block"), model.hidden_size);
    match width {
        _ if !model.profiles.is_empty() => model.name.to_string(),
        0 => format!("{} of {blocks}", model.name),
        _ => format!("{} of {blocks}, {width} wide", model.name),
    }
}

impl<'a> Measured<'a> {
    fn of_curve(curve: &'a Curve) -> Self {
        let mut facts = curve.source.measured.clone();
        facts.insert("steps".to_owned(), toml::Value::Integer(curve.steps as i64));
        let of = |value: Option<f64>| value.map(toml::Value::Float);
        for (key, value) in
            [("flow_shift", of(curve.flow_shift)), ("boundary_ratio", of(curve.boundary_ratio))]
        {
            facts.extend(value.map(|value| (key.to_owned(), value)));
        }
        Self { facts, curve: Some(curve) }
    }

    /// True if whoever measured it recorded the conditions.
    fn is_recorded(&self) -> bool {
        self.facts.contains_key("checkpoint")
    }

    fn reasons(&self, known: &Known<'_>, searched: bool) -> Vec<Reason> {
        let mut out = Vec::new();
        out.extend(self.checkpoint(known));
        out.extend(self.adapters(known));
        if let Some(curve) = self.curve {
            out.extend(self.boundary(curve, known.run));
            out.extend(self.branches(curve, known.run));
        }
        let options = SamplingOption::ALL.iter().flat_map(|option| {
            option.conditions().iter().map(|name| (*name, !option.is_always_set(), searched))
        });
        let compared = COMPARED.map(|key| (key, false, false));
        for (key, is_optional, refuses) in compared.into_iter().chain(options) {
            let (there, here) = (self.facts.get(key), known.facts.get(key));
            let differ = match (there, here) {
                (Some(there), Some(here)) => !same(key, there, here),
                // In a complete record, a missing condition was not set.
                (None, Some(_)) | (Some(_), None) => {
                    is_optional && self.is_recorded() && known.facts.contains_key("guidance")
                }
                (None, None) => false,
            };
            if differ {
                let text = format!("{key} {}, the run has {}", word(there), word(here));
                out.push(if refuses {
                    Reason::refused(format!("its schedule was searched with {text}"))
                } else {
                    Reason::usable(text)
                });
            }
        }
        let silent: Vec<&str> = NEEDED.into_iter().filter(|key| !self.facts.contains_key(*key)).collect();
        if !silent.is_empty() {
            out.push(Reason::usable(format!("it does not say its {}", silent.join(", "))));
        }
        out
    }

    fn checkpoint(&self, known: &Known<'_>) -> Option<Reason> {
        let there = self.facts.get("checkpoint")?.as_str()?;
        match &known.checkpoint {
            WeightsHash::None => None,
            WeightsHash::Of(here) if here == there => None,
            // Another number format of the same weights moves a curve less than another seed does.
            WeightsHash::Of(_) if self.other_formats(known).is_some() => self.other_formats(known),
            WeightsHash::Of(here) => {
                Some(Reason::refused(format!("checkpoint {}, the run has {}", short(there), short(here))))
            }
            WeightsHash::Unread(bytes) => {
                let size = crate::summary::bytes(*bytes as usize);
                let text = format!("checkpoint not compared, it has {size}: --check-checkpoint reads it");
                Some(Reason::usable(text))
            }
        }
    }

    /// A reason if the network's tensors were stored in other number formats.
    fn other_formats(&self, known: &Known<'_>) -> Option<Reason> {
        let [there, here] = [&self.facts, &known.facts].map(|facts| facts.get(WEIGHTS)?.as_str());
        let here = here?;
        // Profiles that do not say are older than coded weights.
        let there = there.or_else(|| is_coded(here).then_some("floats"))?;
        (there != here)
            .then(|| Reason::usable(format!("measured with weights in {there}, the run has {here}")))
    }

    /// A reason if the run's adapters are not those of the measurement.
    fn adapters(&self, known: &Known<'_>) -> Option<Reason> {
        let [there, here] = [&self.facts, &known.facts].map(adapters);
        let words = |adapters: &[Vec<&str>]| {
            let names: Vec<String> = adapters
                .iter()
                .map(|words| match words.as_slice() {
                    [_, _, strength, name @ ..] => format!("{} at {strength}", name.join(" ")),
                    other => other.join(" "),
                })
                .collect();
            if names.is_empty() { "no adapter".to_owned() } else { names.join(", ") }
        };
        let identity = |all: &[Vec<&str>]| {
            all.iter().map(|words| words.iter().take(3).map(|w| (*w).to_owned()).collect()).collect()
        };
        let (a, b): (Vec<Vec<String>>, Vec<Vec<String>>) = (identity(&there), identity(&here));
        (a != b).then(|| {
            Reason::refused(format!("measured with {}, the run has {}", words(&there), words(&here)))
        })
    }

    /// A reason if the curve's boundary between experts is at another step than the run's.
    fn boundary(&self, curve: &Curve, run: &Trajectory) -> Option<Reason> {
        let [there, here] = curve.boundaries(run).filter(|[there, here]| there != here)?;
        let text =
            format!("its first expert would run {there} of {}, the run's {here}", count(run.len(), "step"));
        Some(self.by_step(text))
    }

    /// A reason if the run has branches that the curve does not cover.
    fn branches(&self, curve: &Curve, run: &Trajectory) -> Option<Reason> {
        let missing = run.branches.iter().filter(|b| **b != Branch::Batched).map(ToString::to_string);
        let missing: Vec<String> = missing.filter(|name| !curve.ratios.contains_key(name)).collect();
        let has: Vec<&str> = curve.ratios.keys().map(String::as_str).collect();
        let text = format!("it has the branches {}, the run has {} too", has.join(", "), missing.join(", "));
        (!missing.is_empty()).then(|| self.by_step(text))
    }

    /// A difference that puts a curve's values at other steps; a published curve says too little to refuse
    /// it.
    fn by_step(&self, text: String) -> Reason {
        if self.is_recorded() { Reason::refused(text) } else { Reason::usable(text) }
    }
}

/// Whether the number formats are those of coded weights.
fn is_coded(formats: &str) -> bool {
    ["gguf ", "fp8 "].iter().any(|kind| formats.starts_with(kind))
}

/// The adapters among the conditions: expert, hash, strength and the words of a name each.
fn adapters(facts: &Facts) -> Vec<Vec<&str>> {
    let all = facts.get(ADAPTERS).and_then(toml::Value::as_array).map(Vec::as_slice).unwrap_or_default();
    all.iter().filter_map(|one| Some(one.as_str()?.split(' ').collect())).collect()
}

fn word(value: Option<&toml::Value>) -> String {
    match value {
        Some(toml::Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => "none".to_owned(),
    }
}

/// Whether two conditions are equal: numbers by value, devices by kind (their first word).
fn same(key: &str, a: &toml::Value, b: &toml::Value) -> bool {
    let number = |v: &toml::Value| v.as_float().or(v.as_integer().map(|i| i as f64));
    match (number(a), number(b)) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-6 * a.abs().max(1.0),
        _ => match (a.as_str(), b.as_str()) {
            (Some(a), Some(b)) if key == "device" => a.split(' ').next() == b.split(' ').next(),
            _ => a == b,
        },
    }
}

/// A prefix of each expert's hash, long enough to tell two apart.
fn short(hash: &str) -> String {
    hash.split(' ').map(|one| one.get(..12).unwrap_or(one)).collect::<Vec<_>>().join(" ")
}

/// One cache's use of a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Judged {
    /// The profile's name in the configuration.
    pub(crate) profile: String,
    pub(crate) strategy: String,
    pub(crate) reasons: Vec<Reason>,
}

impl Judged {
    pub(crate) fn verdict(&self) -> Verdict {
        self.reasons.iter().map(|reason| reason.verdict).max().unwrap_or(Verdict::Exact)
    }

    fn texts(&self) -> Vec<&str> {
        self.reasons.iter().map(|reason| reason.text.as_str()).collect()
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "profile": self.profile,
            "strategy": self.strategy,
            "verdict": self.verdict(),
            "reasons": self.texts(),
        })
    }
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { profile, strategy, .. } = self;
        match self.verdict() {
            Verdict::Exact => write!(f, "profile {profile} for {strategy}: exact"),
            Verdict::Usable => {
                write!(f, "profile {profile} for {strategy}: usable; {}", self.texts().join("; "))
            }
            Verdict::Refused => {
                write!(f, "profile {profile} is not for this run of {strategy}: {}", self.texts().join("; "))
            }
        }
    }
}

#[cfg(test)]
mod tests;
