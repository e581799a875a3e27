//! Whether a file holds what its layout says, and nothing else.

use std::collections::BTreeSet;

use magcache_core::error::count;

use super::{
    Layout, Part, Role,
    layout::layouts,
    sizes::{self, list_of},
};
use crate::checkpoint::{CheckpointError, Weights};

/// Names that a message lists.
const SHOWN: usize = 8;

/// Tensors beside the parts of a file that nothing reads: a tokenizer's model, and factors of training.
const BESIDE: [&str; 3] = ["spiece_model", "text_encoders.spiece_model", "logit_scale"];

impl Part {
    /// The same after a look at every tensor.
    pub(super) fn checked(self, weights: &Weights) -> Result<Self, CheckpointError> {
        if let Some(variant) = self.variant.filter(|variant| variant.unsupported) {
            let reason = format!("{} ({}) is not part of this build", self.layout.what, variant.is);
            return Err(self.refused(weights, reason, None));
        }
        let names: BTreeSet<&str> = weights.names().collect();
        let wanted = self.wanted(&names);
        let mut missing = Vec::new();
        for (name, written) in &wanted {
            let Some(stored) = self.layout.stored(&names, self.prefix, name) else {
                missing.push(format!("{}{name}", self.prefix));
                continue;
            };
            if let Some(shape) =
                sizes::shape(written, &self.sizes).filter(|shape| !weights.fits(&stored, shape))
            {
                let found = weights.shape(&stored).unwrap_or_default();
                let reason = format!("\"{stored}\" has shape {found:?}, the other tensors make it {shape:?}");
                return Err(self.refused(weights, reason, None));
            }
        }
        if let Some(first) = missing.first() {
            let what = format!("of its {} is missing", count(wanted.len(), "tensor"));
            let hint = weights.missing(first).hint();
            return Err(self.refused(weights, named(&missing, &what), hint));
        }
        Ok(self)
    }

    /// Every tensor that the part should have, by the names of its layout.
    fn wanted(&self, names: &BTreeSet<&str>) -> Vec<(String, String)> {
        let there = |option: &&std::collections::BTreeMap<String, String>| {
            option.keys().any(|name| {
                let first = name.replace("{L}", "0");
                self.layout.stored(names, self.prefix, &first).is_some()
            })
        };
        let options = self.layout.options.iter().filter(there).flatten();
        let mut wanted = Vec::new();
        for (name, shape) in self.layout.tensors.iter().chain(options) {
            match list_of(name) {
                None => wanted.push((name.clone(), shape.clone())),
                Some((_, letter)) => {
                    let blocks = self.sizes.get(letter).copied().unwrap_or_default().max(1);
                    let braced = format!("{{{letter}}}");
                    wanted
                        .extend((0..blocks).map(|i| (name.replace(&braced, &i.to_string()), shape.clone())));
                }
            }
        }
        wanted
    }

    fn refused(&self, weights: &Weights, reason: String, hint: Option<String>) -> CheckpointError {
        let reason = match &*self.layout.what {
            what if reason.starts_with(what) => reason,
            what => format!("it is a {what}, but {reason}"),
        };
        CheckpointError::Config { file: weights.place(), reason, hint }
    }
}

/// Checks that every tensor belongs to one of the parts.
pub(super) fn accounted_for(weights: &Weights, parts: &[Part]) -> Result<(), CheckpointError> {
    let names: BTreeSet<&str> = weights.names().collect();
    let mut known: BTreeSet<String> = BTreeSet::new();
    for part in parts {
        if part.layout.tensors.is_empty() {
            // Which names there are depends on its sizes: what the network does not read is told later.
            let others = |name: &str| {
                parts
                    .iter()
                    .all(|other| other.prefix.len() <= part.prefix.len() || !name.starts_with(other.prefix))
            };
            let own = names.iter().filter(|name| name.starts_with(part.prefix) && others(name));
            known.extend(own.map(|name| (*name).to_owned()));
        }
        for (name, _) in part.wanted(&names) {
            known.extend(part.layout.stored(&names, part.prefix, &name));
        }
        known.extend(part.layout.unused.iter().flat_map(|name| unused(part, name)));
    }
    let beside = |name: &str| {
        BESIDE
            .iter()
            .any(|known| name == *known || name.strip_suffix(known).is_some_and(|rest| rest.ends_with('.')))
    };
    let left = |name: &&str| !known.contains(*name) && !beside(name);
    let surplus: Vec<String> = names.iter().copied().filter(left).map(str::to_owned).collect();
    match parts.first().filter(|part| !surplus.is_empty() && !part.variant.is_some_and(|v| v.unsupported)) {
        None => Ok(()),
        Some(part) => {
            let reason = format!("{} that no {} has", named(&surplus, "more"), part.layout.what);
            let hint = "they may belong to a part that is not implemented, or to another number format";
            Err(part.refused(weights, reason, Some(hint.to_owned())))
        }
    }
}

/// The names of a tensor that nothing reads, in every block.
fn unused(part: &Part, name: &str) -> Vec<String> {
    let blocks = list_of(name).and_then(|(_, letter)| part.sizes.get(letter)).copied().unwrap_or(1);
    (0..blocks).map(|i| format!("{}{}", part.prefix, name.replace("{L}", &i.to_string()))).collect()
}

/// The error for a file without a part of these roles.
pub(super) fn no_part(weights: &Weights, parts: &[Part], roles: &[Role]) -> CheckpointError {
    let wanted: Vec<&str> = roles.iter().map(|role| role.name()).collect();
    let names: Vec<String> = weights.names().map(str::to_owned).collect();
    let reason = match (parts.first(), weights.architecture()) {
        (Some(part), _) => format!("it is a {}, not a {}", part.describe(), wanted.join(" or ")),
        (None, Some(other)) => format!("its architecture is {other}, with {}", named(&names, "in it")),
        (None, None) => format!("it is none that is known: {}", named(&names, "in it")),
    };
    let of_roles = |layout: &&Layout| roles.contains(&layout.role);
    let looked_for: Vec<String> = layouts()
        .iter()
        .filter(of_roles)
        .map(|layout| format!("{} ({})", layout.what, layout.marks().join(", ")))
        .collect();
    let hint = (parts.is_empty()).then(|| format!("looked for {}", looked_for.join("; ")));
    CheckpointError::Config { file: weights.place(), reason, hint }
}

/// `2 tensors WHAT: "a", "b"`.
fn named(names: &[String], what: &str) -> String {
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("\"{name}\"")).collect();
    let more = names.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} others") } else { String::new() };
    let list = if shown.is_empty() { String::new() } else { format!(": {}", shown.join(", ")) };
    format!("{} {what}{list}{more}", count(names.len(), "tensor"))
}
