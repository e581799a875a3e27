//! Whether what a profile holds is that of a run: exact, usable, or not.
//!
//! What a strategy depends on decides how much a difference weighs. A curve is read by step and a change of the schedule that
//! moves the boundary between experts puts its dip into the wrong phase; a fit is read by distance and sensitivities by
//! timestep, which other schedules share. Whatever was measured on other weights holds for none. A published profile says
//! little about how it was measured: it is usable at best, with what it does not say.

use std::fmt;

use magcache_core::{
    Branch, ModelMeta, Trajectory,
    error::count,
    meta,
    profile::{Curve, Part, Profile},
};
use magcache_models::pipeline::SamplingOption;
use serde_json::{Value, json};

use super::Facts;

/// From best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// Measured under the run's conditions, as far as it says.
    Exact,
    /// Measured under others that change it little, or resampled.
    Usable,
    /// Of something else.
    Refused,
}

/// A condition that differs, with both values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reason {
    pub(crate) verdict: Verdict,
    pub(crate) text: String,
}

/// What is known of a run before it starts.
#[derive(Debug)]
pub(crate) struct Known<'a> {
    /// The model; `None` where it is the profile's own.
    pub(crate) model: Option<&'a ModelMeta>,
    pub(crate) run: &'a Trajectory,
    /// Its conditions, by the names that `calibrate` writes them under.
    pub(crate) facts: Facts,
    pub(crate) checkpoint: WeightsHash,
}

/// The weights of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WeightsHash {
    /// SHA-256 of the network's tensors.
    Of(String),
    /// Not read, for their size in bytes.
    Unread(u64),
    /// The run has none yet.
    None,
}

/// Conditions that are compared where both sides have them, beside those of the options.
const COMPARED: [&str; 4] = ["dtype", "device", "attention", "image"];

/// Conditions without which nobody knows what was measured.
const NEEDED: [&str; 4] = ["checkpoint", "guidance", "width", "height"];

/// One measurement of a profile.
struct Measured<'a> {
    facts: Facts,
    /// For a curve.
    curve: Option<&'a Curve>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exact => "exact",
            Self::Usable => "usable",
            Self::Refused => "refused",
        })
    }
}

impl Reason {
    fn usable(text: String) -> Self {
        Self { verdict: Verdict::Usable, text }
    }

    fn refused(text: String) -> Self {
        Self { verdict: Verdict::Refused, text }
    }
}

/// Everything that speaks against using `part` of a variant of `profile`, which a configuration calls `name`, for a run; the
/// worst first. Nothing means that it is exact.
pub(crate) fn reasons(
    (name, profile): (&str, &Profile),
    part: Part,
    variant: Option<&str>,
    known: &Known<'_>,
) -> Vec<Reason> {
    let other = known.model.and_then(|model| other_model(name, profile, model));
    let mut out: Vec<Reason> = other.into_iter().collect();
    for measured in measured(profile, part, variant, known.run) {
        for reason in measured.reasons(known) {
            if !out.contains(&reason) {
                out.push(reason);
            }
        }
    }
    out.sort_by_key(|reason| std::cmp::Reverse(reason.verdict));
    out
}

/// The variants' existence was checked when the caches were built: an unknown one has nothing to compare.
fn measured<'a>(
    profile: &'a Profile,
    part: Part,
    variant: Option<&str>,
    run: &Trajectory,
) -> Vec<Measured<'a>> {
    // What a curve is read with stands beside its provenance.
    if part == Part::Curves {
        let curves = profile.curves_of(variant).unwrap_or_default();
        return curves.into_iter().map(Measured::of_curve).collect();
    }
    let sources = profile.sources(part, variant, run).unwrap_or_default();
    sources.into_iter().map(|source| Measured { facts: source.measured.clone(), curve: None }).collect()
}

/// A profile of another model, or of the model in other sizes.
fn other_model(name: &str, profile: &Profile, model: &ModelMeta) -> Option<Reason> {
    let built_in = meta::profiles().iter().any(|p| p.name == name);
    match &profile.model {
        Some(of) if *of != model.name => Some(of.as_str()),
        Some(_) if built_in && !model.profiles.contains(&name) => Some(name),
        Some(_) => None,
        // A published profile without a model is of one that this program does not have.
        None if built_in => Some(name),
        None => return Some(Reason::usable("it does not say which model it is of".to_owned())),
    }
    .map(|of| Reason::refused(format!("it is of {of}, the run's model is {}", described(model))))
}

/// A model by name; one that has no profiles of its own is another checkpoint of that family.
fn described(model: &ModelMeta) -> String {
    let sizes = format!(" of {}, {} wide", count(model.blocks(), "block"), model.hidden_size);
    format!("{}{}", model.name, if model.profiles.is_empty() { sizes } else { String::new() })
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

    /// True when it was measured by somebody who wrote down how.
    fn is_recorded(&self) -> bool {
        self.facts.contains_key("checkpoint")
    }

    fn reasons(&self, known: &Known<'_>) -> Vec<Reason> {
        let mut out = Vec::new();
        out.extend(self.checkpoint(known));
        if let Some(curve) = self.curve {
            out.extend(self.boundary(curve, known.run));
            out.extend(self.branches(curve, known.run));
        }
        let options = SamplingOption::ALL
            .iter()
            .flat_map(|option| option.conditions().iter().map(|name| (*name, !option.is_always_set())));
        for (key, is_optional) in COMPARED.map(|key| (key, false)).into_iter().chain(options) {
            let (there, here) = (self.facts.get(key), known.facts.get(key));
            let differ = match (there, here) {
                (Some(there), Some(here)) => !same(key, there, here),
                // Where everything was written down, what is absent was not set.
                (None, Some(_)) | (Some(_), None) => {
                    is_optional && self.is_recorded() && known.facts.contains_key("guidance")
                }
                (None, None) => false,
            };
            if differ {
                out.push(Reason::usable(format!("{key} {}, the run has {}", word(there), word(here))));
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

    /// A curve whose boundary between experts is another step than the run's.
    fn boundary(&self, curve: &Curve, run: &Trajectory) -> Option<Reason> {
        let [there, here] = curve.boundaries(run).filter(|[there, here]| there != here)?;
        let text =
            format!("its first expert would run {there} of {}, the run's {here}", count(run.len(), "step"));
        let verdict = if self.is_recorded() { Verdict::Refused } else { Verdict::Usable };
        Some(Reason { verdict, text })
    }

    /// Branches of the run that the curve says nothing about.
    fn branches(&self, curve: &Curve, run: &Trajectory) -> Option<Reason> {
        let missing = run.branches.iter().filter(|b| **b != Branch::Batched).map(ToString::to_string);
        let missing: Vec<String> = missing.filter(|name| !curve.ratios.contains_key(name)).collect();
        let has: Vec<&str> = curve.ratios.keys().map(String::as_str).collect();
        let text = format!("it has the branches {}, the run has {} too", has.join(", "), missing.join(", "));
        let verdict = if self.is_recorded() { Verdict::Refused } else { Verdict::Usable };
        (!missing.is_empty()).then_some(Reason { verdict, text })
    }
}

fn word(value: Option<&toml::Value>) -> String {
    match value {
        Some(toml::Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => "none".to_owned(),
    }
}

/// Equal as a condition: numbers by value, devices by their kind, their first word.
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

/// Enough of a hash to tell two apart, of each expert.
fn short(hash: &str) -> String {
    hash.split(' ').map(|one| one.get(..12).unwrap_or(one)).collect::<Vec<_>>().join(" ")
}

/// One cache's use of a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Judged {
    /// As the configuration names it.
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
            "verdict": self.verdict().to_string(),
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
