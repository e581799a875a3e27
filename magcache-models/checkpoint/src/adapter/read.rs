//! From a file to changes of a model's tensors.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::DType;
use sha2::{Digest, Sha256};

use super::{
    Adapter, AdapterNames, AdapterReport,
    change::{self, Change},
    key::{self, Key, Kind, PREFIXES, Part, SECOND},
    scale::Stated,
    targets::{Target, Targets},
};
use crate::{CheckpointError, Weights};

/// Names that a message lists.
const SHOWN: usize = 12;

/// Changes by the names of the tensors that they are for.
type Changes = Vec<(String, Change)>;

/// The tensors of one module.
#[derive(Default)]
struct Module<'a> {
    /// By what they are.
    tensors: BTreeMap<Kind, &'a str>,
}

/// What an adapter changes in `model`: the network of one expert, or a text encoder, as `names` says.
pub(super) fn changes(
    adapter: &Adapter,
    model: &Weights,
    names: &AdapterNames,
    expert: usize,
) -> Result<(Changes, AdapterReport), CheckpointError> {
    let (folder, weights) = adapter.open()?;
    let file = Reader { adapter, weights: &weights, model, names, targets: Targets::of(model, names) };
    let all: Vec<&str> = weights.names().collect();
    file.refuse_other_kinds(&all)?;
    let stated = Stated::of(&folder, &weights, names.part)?;
    let part = |name: &&&str| key::part(name, names.encoders).map(|(part, _)| part);
    let rest: Vec<&str> = all.iter().filter(|name| part(name) == Some(names.part)).copied().collect();
    let of_encoders = all.iter().filter(|name| part(name).is_none()).count();
    // Files of diffusers may hold both experts.
    let both = rest.iter().any(|name| name.starts_with(SECOND));
    let own = |name: &&str| !both || (name.starts_with(SECOND) == (expert == 1));

    let (mut modules, mut adapters) = (BTreeMap::<&str, Module<'_>>::new(), BTreeSet::new());
    let mut unknown = Vec::new();
    for name in rest.iter().copied().filter(own) {
        match Key::parse(name) {
            Some(key)
                if key.adapter.is_none_or(|other| {
                    adapters.insert(other);
                    adapters.len() == 1
                }) =>
            {
                modules.entry(key.module).or_default().tensors.insert(key.kind, name);
            }
            _ => unknown.push(name),
        }
    }
    let report = file.report(expert, of_encoders);
    let mut found = Found { changes: Vec::new(), report, added: Vec::new() };
    for (module, tensors) in &modules {
        let target = file.target(module);
        if !file.module(module, tensors, target.as_ref(), &stated, &mut found)? {
            unknown.extend(tensors.tensors.values());
        }
    }
    unknown.sort_unstable();
    // Nothing that fits is an adapter for something else, but for a text encoder, which is not all of it.
    let other = names.part == Part::Network && found.changes.is_empty();
    if !unknown.is_empty() && (!adapter.skip_unknown || other) {
        return Err(file.unknown(&unknown, &all, found.changes.len()));
    }
    let sha256 = found.identity();
    let skipped = unknown.into_iter().map(str::to_owned).collect();
    Ok((found.changes, AdapterReport { skipped, sha256, ..found.report }))
}

/// What has been read so far.
struct Found {
    changes: Changes,
    report: AdapterReport,
    /// What each tensor gets, as a digest.
    added: Vec<(String, [u8; 32])>,
}

struct Reader<'a> {
    adapter: &'a Adapter,
    weights: &'a Weights,
    model: &'a Weights,
    names: &'a AdapterNames,
    targets: Targets,
}

impl Reader<'_> {
    fn report(&self, expert: usize, of_encoders: usize) -> AdapterReport {
        AdapterReport {
            adapter: self.adapter.clone(),
            part: self.names.part,
            expert,
            pairs: 0,
            differences: 0,
            ranks: None,
            scales: None,
            skipped: Vec::new(),
            of_encoders,
            sha256: String::new(),
        }
    }

    fn refused(&self, reason: String, hint: Option<&str>) -> CheckpointError {
        CheckpointError::Adapter { file: self.weights.place(), reason, hint: hint.map(str::to_owned) }
    }

    /// Refuses files that are no LoRA: without what they have besides they would be another adapter.
    fn refuse_other_kinds(&self, names: &[&str]) -> Result<(), CheckpointError> {
        let other = |name: &&str| Some((key::other_kind(name)?, (*name).to_owned()));
        if let Some((kind, _)) = names.iter().find_map(other) {
            let of_kind: Vec<&str> =
                names.iter().copied().filter(|name| key::other_kind(name) == Some(kind)).collect();
            return Err(
                self.refused(format!("it is {kind}, which is not supported: {}", quoted(&of_kind)), None)
            );
        }
        if names.iter().any(|name| name.ends_with("_norm.scale") || name.ends_with("norm.weight")) {
            let widened: Vec<&str> = names.iter().copied().filter(|name| name.contains("img_in")).collect();
            if !widened.is_empty() {
                let reason = "it is a control adapter (Canny, Depth), which widens the input and replaces norms, and \
                              that is not supported";
                return Err(self.refused(format!("{reason}: {}", quoted(&widened)), None));
            }
        }
        Ok(())
    }

    /// What a module of the file is in the model.
    fn target(&self, module: &str) -> Option<Target> {
        if self.names.part != Part::Network {
            let (_, module) = key::part(module, self.names.encoders)?;
            return self.targets.get(module).cloned();
        }
        let prefixes = PREFIXES.iter().chain(&[SECOND]);
        let known = prefixes.filter_map(|prefix| module.strip_prefix(prefix));
        known.into_iter().find_map(|name| self.targets.get(name)).cloned()
    }

    /// Adds the changes of one module; false if it has no place in the model.
    fn module(
        &self,
        name: &str,
        module: &Module<'_>,
        target: Option<&Target>,
        stated: &Stated,
        found: &mut Found,
    ) -> Result<bool, CheckpointError> {
        let get = |kind: Kind| module.tensors.get(&kind).copied();
        let mut placed = true;
        match (get(Kind::Down), get(Kind::Up), target) {
            (None, None, _) => {}
            (Some(down), Some(up), Some(target)) => {
                placed &= self.pair(name, [down, up], get(Kind::Alpha), target, stated, found)?;
            }
            (Some(_), Some(_), None) => return Ok(false),
            (Some(half), None, _) | (None, Some(half), _) => {
                return Err(
                    self.refused(format!("\"{half}\" is one half of a pair, the other is missing"), None)
                );
            }
        }
        for (kind, parameter) in
            [(Kind::Diff, "weight"), (Kind::DiffBias, "bias"), (Kind::DiffModulation, "")]
        {
            let Some(stored) = get(kind) else { continue };
            let target = match (kind, target) {
                (Kind::DiffModulation, _) => self.target(&format!("{name}.modulation")),
                // A parameter by its full name.
                (Kind::Diff, None) => name
                    .rsplit_once('.')
                    .filter(|(_, parameter)| ["weight", "scale"].contains(parameter))
                    .and_then(|(module, _)| self.target(module)),
                (_, target) => target.cloned(),
            };
            placed &= match target {
                Some(target) => self.difference(stored, parameter, &target, found)?,
                None => false,
            };
        }
        Ok(placed && (get(Kind::Alpha).is_none() || get(Kind::Down).is_some()))
    }

    /// The full names of a target's tensors, if the model has them.
    fn tensors(&self, target: &Target, parameter: &str) -> Option<Vec<(String, Vec<usize>)>> {
        let tensor = |module: &String| {
            let full = format!("{module}.{parameter}");
            let name = if self.model.contains(&full) { full } else { module.clone() };
            let shape = self.model.shape(&name)?.to_vec();
            Some((name, shape))
        };
        target.modules.iter().map(tensor).collect()
    }

    fn pair(
        &self,
        module: &str,
        [down, up]: [&str; 2],
        alpha: Option<&str>,
        target: &Target,
        stated: &Stated,
        found: &mut Found,
    ) -> Result<bool, CheckpointError> {
        let Some(tensors) = self.tensors(target, "weight") else { return Ok(false) };
        // A norm has no inputs.
        if tensors.iter().any(|(_, shape)| shape.len() < 2) {
            return Ok(false);
        }
        let flat = |shape: &[usize]| -> [usize; 2] {
            [shape.first().copied().unwrap_or(1), shape.iter().skip(1).product()]
        };
        let stored = |name: &str| flat(self.weights.shape(name).unwrap_or_default());
        let ([rank, inputs], [outputs, of_up]) = (stored(down), stored(up));
        let wanted: Vec<[usize; 2]> = tensors.iter().map(|(_, shape)| flat(shape)).collect();
        let rows: usize = wanted.iter().map(|[rows, _]| rows).sum();
        let columns = wanted.first().map_or(0, |[_, columns]| *columns);
        let wrong = |name: &str, what: String| {
            let shape = self.weights.shape(name).unwrap_or_default();
            Err(self.refused(format!("\"{name}\" has shape {shape:?}, {what}"), of_size(inputs)))
        };
        if rank != of_up || rank == 0 {
            return wrong(
                down,
                format!("\"{up}\" has {:?}: their ranks differ", self.weights.shape(up).unwrap_or_default()),
            );
        }
        if inputs != columns {
            return wrong(down, format!("its layer has {:?}: {columns} inputs", [rows, columns]));
        }
        if outputs != rows {
            return wrong(up, format!("its layer has {:?}: {rows} outputs", [rows, columns]));
        }
        let alpha = alpha.map(|name| self.values(name)).transpose()?;
        let alpha = alpha.and_then(|values| values.first().copied()).map(f64::from);
        let scale = stated.scale(module, rank, alpha);
        let (values_down, values_up) = (self.values(down)?, self.values(up)?);
        let whole = Change {
            weights: self.weights.clone(),
            kind: change::Kind::Pair { down: down.to_owned(), up: up.to_owned() },
            strength: self.adapter.strength * scale,
            rows: None,
            swapped: target.swapped,
        };
        found.add(tensors, &whole, |rows, found| {
            let up = part(&values_up, rows, rank, target.swapped);
            found.adds(&values_down, up.map(|value| (f64::from(value) * scale) as f32));
        });
        let report = &mut found.report;
        report.pairs += 1;
        report.ranks = Some(report.ranks.map_or((rank, rank), |(a, b)| (a.min(rank), b.max(rank))));
        report.scales = Some(report.scales.map_or((scale, scale), |(a, b)| (a.min(scale), b.max(scale))));
        Ok(true)
    }

    fn difference(
        &self,
        stored: &str,
        parameter: &str,
        target: &Target,
        found: &mut Found,
    ) -> Result<bool, CheckpointError> {
        let Some(tensors) = self.tensors(target, parameter) else { return Ok(false) };
        let shape = self.weights.shape(stored).unwrap_or_default();
        let rows: usize = tensors.iter().filter_map(|(_, shape)| shape.first()).sum();
        let values: usize = tensors.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        let fits = shape.iter().product::<usize>() == values
            && tensors.iter().all(|(_, wanted)| wanted.get(1..) == shape.get(1..));
        if !fits {
            let wanted: Vec<_> = tensors.iter().map(|(_, shape)| shape).collect();
            let reason = format!("\"{stored}\" has shape {shape:?}, its place in the model has {wanted:?}");
            return Err(self.refused(reason, None));
        }
        let values = self.values(stored)?;
        let width = values.len() / rows.max(1);
        let whole = Change {
            weights: self.weights.clone(),
            kind: change::Kind::Difference(stored.to_owned()),
            strength: self.adapter.strength,
            rows: None,
            swapped: target.swapped,
        };
        found.add(tensors, &whole, |rows, found| {
            found.adds(&[], part(&values, rows, width, target.swapped));
        });
        found.report.differences += 1;
        Ok(true)
    }

    /// The values of a tensor.
    #[expect(
        clippy::disallowed_methods,
        reason = "every value is looked at once, before anything is computed"
    )]
    fn values(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let shape = self.weights.shape(name).unwrap_or_default().to_vec();
        let tensor = self.weights.get_f32(name, &shape)?.to_dtype(DType::F32)?.flatten_all()?;
        Ok(tensor.to_vec1()?)
    }

    fn unknown(&self, unknown: &[&str], all: &[&str], placed: usize) -> CheckpointError {
        let (family, own) = (key::family(all), self.names.family);
        if placed == 0 && self.names.part == Part::Network {
            let other = match family {
                Some(family) if family != own => {
                    format!("it is an adapter for {family}, this is a {own} model")
                }
                _ => format!("nothing of it fits this {own} model"),
            };
            return self.refused(format!("{other}: {}", quoted(unknown)), None);
        }
        let reason = format!(
            "{} of its {} tensors have no place in {}: {}",
            unknown.len(),
            all.len(),
            self.names.part.place(),
            quoted(unknown)
        );
        self.refused(
            reason,
            Some("`skip_unknown` (--lora-skip-unknown) leaves them out and applies the rest"),
        )
    }
}

impl Found {
    /// Gives each of the tensors its rows of a change; `digest` notes what these rows add.
    fn add(
        &mut self,
        tensors: Vec<(String, Vec<usize>)>,
        whole: &Change,
        digest: impl Fn((usize, usize), &mut Self),
    ) {
        let (mut start, parts) = (0, tensors.len());
        for (name, shape) in tensors {
            let count = shape.first().copied().unwrap_or_default();
            let rows = (parts > 1).then_some((start, count));
            self.changes.push((name, Change { rows, ..whole.clone() }));
            digest((start, count), self);
            start += count;
        }
    }

    /// Notes what the last change adds.
    fn adds(&mut self, down: &[f32], up: impl Iterator<Item = f32>) {
        let Some((name, _)) = self.changes.last() else { return };
        let mut hash = Sha256::new();
        down.iter().copied().chain(up).for_each(|value| hash.update(value.to_le_bytes()));
        self.added.push((name.clone(), hash.finalize().into()));
    }

    /// What identifies all of it: neither names in the file nor its order.
    fn identity(&mut self) -> String {
        self.added.sort();
        let mut hash = Sha256::new();
        for (name, digest) in &self.added {
            hash.update(name);
            hash.update(digest);
        }
        format!("{:x}", hash.finalize())
    }
}

/// The values of some rows of this width, in the order of the tensor that they are for.
fn part(
    values: &[f32],
    (start, count): (usize, usize),
    width: usize,
    swapped: bool,
) -> impl Iterator<Item = f32> {
    let values = values.get(start * width..).and_then(|values| values.get(..count * width));
    let (first, second) = values.unwrap_or_default().split_at(if swapped { count * width / 2 } else { 0 });
    second.iter().chain(first).copied()
}

/// Names in quotes, the first of many.
fn quoted(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("\"{name}\"")).collect();
    let more = names.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

/// The model whose layers have so many inputs.
fn of_size(inputs: usize) -> Option<&'static str> {
    Some(match inputs {
        1536 | 8960 => "layers of this size are those of Wan 1.3B",
        5120 | 13824 => "layers of this size are those of Wan 14B",
        3072 | 12288 | 14336 => "layers of this size are those of Wan 5B and of FLUX",
        _ => return None,
    })
}
