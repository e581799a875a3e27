//! From the value of a pickle to named tensors.

use std::collections::BTreeMap;

use super::{
    Parsed, bad, bad_with,
    pickle::{Id, Machine, StoredTensor, Value},
};

/// Keys under which training programs save the state dictionary, in order of preference.
const WRAPPERS: [&str; 7] =
    ["state_dict", "model_state", "model_state_dict", "model", "module", "params", "ema"];

/// Levels of nested dictionaries that are searched.
const DEEPEST: usize = 4;

/// Most names listed in a message.
const MOST_NAMED: usize = 8;

/// The tensors of the state dictionary, which may lie inside other dictionaries.
///
/// The outermost dictionary that contains tensors is used; its other values are ignored.
pub(super) fn tensors(machine: &Machine, root: Id) -> Parsed<BTreeMap<String, StoredTensor>> {
    let holds_tensors: Vec<bool> =
        machine.values().iter().map(|value| named_tensors(machine, value).next().is_some()).collect();
    let mut at = root;
    for _ in 0..DEEPEST {
        let tensors: BTreeMap<_, _> = named_tensors(machine, machine.value(at))
            .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
            .collect();
        if !tensors.is_empty() {
            return Ok(tensors);
        }
        let inner: BTreeMap<&str, Id> = named(machine, machine.value(at))
            .filter(|(_, id)| matches!(machine.value(*id), Value::Dict(_)))
            .collect();
        let full: BTreeMap<&str, Id> = inner
            .iter()
            .filter(|(_, id)| holds_tensors.get(**id).is_some_and(|holds| *holds))
            .map(|(name, id)| (*name, *id))
            .collect();
        let candidates = if full.is_empty() { inner } else { full };
        let known = WRAPPERS.iter().find_map(|name| candidates.get(name));
        at = match (known, candidates.len()) {
            (Some(id), _) => *id,
            (None, 1) => candidates.values().copied().next().unwrap_or(root),
            (None, 0) => break,
            (None, _) => {
                let names: Vec<_> = candidates.keys().copied().take(MOST_NAMED).collect();
                return bad(format!(
                    "it has several dictionaries, of which none is the usual one: {}",
                    names.join(", ")
                ));
            }
        };
    }
    bad_with("it has no dictionary of tensors", "save `model.state_dict()`, not the model")
}

/// The items of a dictionary whose keys are text.
fn named<'m>(machine: &'m Machine, dictionary: &'m Value) -> impl Iterator<Item = (&'m str, Id)> {
    let items = if let Value::Dict(items) = dictionary { items.as_slice() } else { &[] };
    items.iter().filter_map(|(key, value)| match machine.value(*key) {
        Value::Text(name) => Some((&**name, *value)),
        _ => None,
    })
}

fn named_tensors<'m>(
    machine: &'m Machine,
    dictionary: &'m Value,
) -> impl Iterator<Item = (&'m str, &'m StoredTensor)> {
    named(machine, dictionary).filter_map(|(name, id)| match machine.value(id) {
        Value::Tensor(tensor) => Some((name, tensor)),
        _ => None,
    })
}
