//! Which parts of which model a file of weights holds: answered by the names and shapes of its tensors, never
//! by the file's name.
//!
//! `layouts.json` lists what is published, and so do the tables of families ([`LayoutTable`]): the names of
//! each layout with their shapes in terms of the model's sizes, the prefixes that files put in front of them,
//! and the variants that have more. A file is recognised by a few of the names; then every tensor of the
//! layout must be there in its shape, and every tensor of the file must be part of a layout.

mod check;
mod layout;
mod sizes;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use self::layout::layouts;
pub use self::layout::{Layout, LayoutTable, Role, Variant};
use candle_core::Device;

use crate::checkpoint::{CheckpointError, Folder, Mapped, WeightDtype, Weights};

/// A part of a model in a file.
#[derive(Clone, Debug)]
pub struct Part {
    /// What it is.
    pub layout: &'static Layout,
    /// What precedes each name of the layout in the file.
    pub prefix: &'static str,
    /// What it is more precisely.
    pub variant: Option<&'static Variant>,
    /// The sizes of the model by the letters of its layout.
    pub sizes: BTreeMap<String, usize>,
}

/// The parts of the file with these tensors, which may be none.
pub fn parts(weights: &Weights) -> Vec<Part> {
    let names: BTreeSet<&str> = weights.names().collect();
    let mut prefixes: Vec<&'static str> =
        layouts().iter().flat_map(|layout| layout.prefixes.iter().map(String::as_str)).collect();
    // Also by their text, so that the same ones lie side by side.
    prefixes.sort_by_key(|prefix| (std::cmp::Reverse(prefix.len()), *prefix));
    prefixes.dedup();
    let mut found: Vec<Part> = Vec::new();
    for prefix in prefixes {
        let of_prefix = |layout: &&Layout| layout.prefixes.iter().any(|known| known == prefix);
        let is_it = |layout: &&Layout| layout.is_in(&names, prefix);
        if let Some(layout) = layouts().iter().filter(of_prefix).find(is_it) {
            let variant = layout.variant(weights, &names, prefix);
            found.push(Part { layout, prefix, variant, sizes: sizes::of(layout, weights, prefix) });
        }
    }
    found
}

/// The part of a file that has one of the roles.
///
/// # Errors
/// A file of other models, or of none that is known; a model that this build does not have; a tensor that is
/// missing, unexpected or of another shape.
pub fn part(weights: &Weights, roles: &[Role]) -> Result<Part, CheckpointError> {
    let parts = parts(weights);
    check::accounted_for(weights, &parts)?;
    let all = parts.clone();
    match parts.into_iter().find(|part| roles.contains(&part.layout.role)) {
        Some(part) => part.checked(weights),
        None => Err(check::no_part(weights, &all, roles)),
    }
}

/// Opens the part of a file that has the role, under the names of its layout.
///
/// # Errors
/// As [`part`].
pub fn open(
    folder: &Folder,
    file: &str,
    role: Role,
    device: &Device,
    dtype: WeightDtype,
) -> Result<Weights, CheckpointError> {
    let weights = Weights::open_files(folder, &[file], device, dtype)?;
    part(&weights, &[role])?.take(weights)
}

impl Part {
    /// Its name in reports.
    pub fn describe(&self) -> String {
        match self.variant {
            Some(Variant { is, .. }) => format!("{} {is}", self.layout.what),
            None => self.layout.what.clone(),
        }
    }

    /// Whether its layout has this name.
    pub fn is(&self, layout: &str) -> bool {
        self.layout.name == layout
    }

    /// The part's tensors under the names of its layout, without those of other parts.
    ///
    /// # Errors
    /// As [`Weights::mapped`].
    pub fn take(&self, weights: Weights) -> Result<Weights, CheckpointError> {
        weights.mapped(|name| {
            Some(match name.strip_prefix(self.prefix) {
                Some(own) if !self.layout.is_unused(own) => Mapped::Same(self.layout.usual(own)),
                _ => Mapped::Omitted,
            })
        })
    }
}
