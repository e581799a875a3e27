//! The modules of a model by every name that adapters use for them.

use std::collections::BTreeMap;

use super::key::Part;
use crate::{
    Mapped, Weights,
    table::{Rule, look_up},
};

/// The names of a family's modules besides those of its tensors here.
#[derive(Clone, Copy, Debug)]
pub struct AdapterNames {
    /// The family in messages.
    pub family: &'static str,
    /// Tables from other names to those here.
    pub tables: &'static [&'static [Rule]],
    /// The network that they are the names of.
    pub part: Part,
    /// The text encoders of the family's models.
    pub encoders: &'static [Part],
}

impl AdapterNames {
    /// The names of a text encoder's modules, which are those of transformers.
    #[must_use]
    pub const fn of(self, encoder: Part) -> Self {
        Self { tables: &[], part: encoder, ..self }
    }
}

/// What stands before the modules of CLIP, unless a newer transformers wrote them.
const OUTER: &str = "text_model.";

/// Parameters of modules.
const PARAMETERS: [&str; 3] = ["weight", "bias", "scale"];

/// What a module of an adapter is here: one module, parts of several, or one whose halves change places.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Target {
    /// Modules, or parameters that are not `weight` or `bias`, in the order of the rows.
    pub(super) modules: Vec<String>,
    pub(super) swapped: bool,
}

/// The modules of a model.
pub(super) struct Targets {
    /// By names with points and by names with underscores.
    known: BTreeMap<String, Target>,
}

impl Targets {
    pub(super) fn of(weights: &Weights, names: &AdapterNames) -> Self {
        let mut known = BTreeMap::new();
        for name in weights.names() {
            let module = module_of(name);
            let target = Target { modules: vec![module.to_owned()], swapped: false };
            if names.part == Part::Clip {
                let inner = module.strip_prefix(OUTER).unwrap_or(module);
                known.insert(format!("{OUTER}{inner}"), target.clone());
                known.insert(inner.to_owned(), target.clone());
            }
            known.insert(module.to_owned(), target);
        }
        for table in names.tables {
            for rule in *table {
                for native in instances(rule, weights) {
                    if let Some(target) = target(table, &native, weights) {
                        known.entry(native).or_insert(target);
                    }
                }
            }
        }
        let underscored: Vec<_> =
            known.iter().map(|(name, target)| (name.replace('.', "_"), target.clone())).collect();
        for (name, target) in underscored {
            known.entry(name).or_insert(target);
        }
        Self { known }
    }

    /// The module of this name.
    pub(super) fn get(&self, name: &str) -> Option<&Target> {
        self.known.get(name)
    }
}

/// A tensor's name without `weight` or `bias`.
fn module_of(name: &str) -> &str {
    ["weight", "bias"]
        .iter()
        .find_map(|parameter| name.strip_suffix(parameter)?.strip_suffix('.'))
        .unwrap_or(name)
}

/// The native modules of a rule, one for each block of the model.
fn instances(rule: &Rule, weights: &Weights) -> Vec<String> {
    match (rule.native.contains('*'), rule.ours.split_once(".*")) {
        (true, Some((list, _))) => {
            (0..weights.count(list)).map(|i| rule.native.replacen('*', &i.to_string(), 1)).collect()
        }
        _ => vec![rule.native.to_owned()],
    }
}

/// What a native module is here; `None` if the model does not have it.
fn target(table: &[Rule], native: &str, weights: &Weights) -> Option<Target> {
    let names = PARAMETERS.iter().map(|parameter| format!("{native}.{parameter}"));
    names.chain([native.to_owned()]).find_map(|name| {
        let (names, swapped) = match look_up(table, &name)? {
            Mapped::Same(name) | Mapped::Squeezed(name) | Mapped::Matrix(name) => (vec![name], false),
            Mapped::Swapped(name) => (vec![name], true),
            Mapped::Split(parts) => (parts.into_iter().map(|(name, _)| name).collect(), false),
            Mapped::Omitted => return None,
        };
        let there = names.iter().all(|name| weights.contains(name));
        there.then(|| Target {
            modules: names.iter().map(|name| module_of(name).to_owned()).collect(),
            swapped,
        })
    })
}
