//! Adapters (LoRA): small files that change some tensors of a model.
//!
//! `W' = W + strength · (alpha / rank) · up · down`, or a difference as it is, times the strength. Where the
//! weight is kept coded, the two matrices stay beside it; else the sum is rounded once. Every tensor of a
//! file must be for a module of the model, under one of the names that programs use for it; spellings are
//! told apart tensor by tensor. Sums do not depend on the order in which files are given.

mod change;
mod key;
mod read;
mod report;
mod scale;
mod targets;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use candle_core::Device;

pub(crate) use self::change::{Beside, Change, beside, sum};
pub use self::{key::Part, report::AdapterReport, targets::AdapterNames};
use super::{CheckpointError, Folder, WeightDtype, Weights};

/// A file of an adapter and how strongly it acts.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// The file.
    pub path: PathBuf,
    /// The folder that it is in, if that is not on disk.
    pub folder: Option<Folder>,
    /// Factor of all that it adds; below 0 it acts in reverse.
    pub strength: f64,
    /// Whether what has no place in the model is left out and told, in place of an error.
    pub skip_unknown: bool,
}

impl Adapter {
    /// The adapter's tensors, and the folder that they are in.
    fn open(&self) -> Result<(Folder, Weights), CheckpointError> {
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let folder = match &self.folder {
            Some(folder) => folder.clone(),
            None => Folder::open(parent.unwrap_or(Path::new(".")))?,
        };
        let name = self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let weights = Weights::open_files(&folder, &[name], &Device::Cpu, WeightDtype::Keep)?;
        Ok((folder, weights))
    }
}

/// Adapters in an order that does not depend on that in which they were given; of one file, strengths are
/// added up. Those without strength are left out.
pub(crate) fn in_order(adapters: &[Adapter]) -> Vec<Adapter> {
    let mut all: Vec<Adapter> = Vec::new();
    for adapter in adapters {
        match all.iter_mut().find(|other| other.path == adapter.path) {
            Some(other) => other.strength += adapter.strength,
            None => all.push(adapter.clone()),
        }
    }
    all.retain(|adapter| adapter.strength != 0.0);
    all.sort_by(|a, b| a.path.cmp(&b.path));
    all
}

impl Weights {
    /// The tensors as `adapters` change them, for the expert with this number, and a report for each file
    /// that was applied. With names of a text encoder, its parts of the files are applied, and files without
    /// such parts are not in the reports.
    ///
    /// Must be called before any tensor is read or any clone is made.
    ///
    /// # Errors
    /// [`CheckpointError::Adapter`] for a file of another model or kind, and for tensors that have no place;
    /// those of reading the file.
    pub fn adapted(
        self,
        adapters: &[Adapter],
        names: &AdapterNames,
        expert: usize,
    ) -> Result<(Self, Vec<AdapterReport>), CheckpointError> {
        let (mut reports, mut changes) = (Vec::new(), Vec::new());
        for adapter in in_order(adapters) {
            let (own, report) = read::changes(&adapter, &self, names, expert)?;
            changes.extend(own);
            if names.part == Part::Network || !report.is_empty() {
                reports.push(report);
            }
        }
        let mut set = self.into_set()?;
        for (name, change) in changes {
            set.changes.entry(name).or_default().push(change);
        }
        Ok((Self { set: std::sync::Arc::new(set), prefix: String::new() }, reports))
    }
}
