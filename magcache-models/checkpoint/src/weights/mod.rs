//! The tensors of one component.

mod flat;
mod identity;
mod matrix;
mod on_device;
mod open;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use candle_core::{DType, Device, Tensor};

pub use self::{
    flat::Flat,
    matrix::{CodedMatrix, Matrix},
    on_device::DeviceMatrix,
    open::Format,
};
use super::{
    CheckpointError, Ops,
    adapter::{self, Change},
    blob::Blob,
    device::half_precision,
    header::TensorInfo,
    metadata::Metadata,
    number::NumberFormat,
    read::{self, ReadError},
    unread::Unread,
    upload::Uploads,
};

/// Largest size in f32, in bytes, of a component that counts as small: see [`WeightDtype::Auto`].
pub const WIDEN_LIMIT: usize = 256 << 20;

/// The type in which [`Weights::get`] returns tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightDtype {
    /// On a CPU, f32 for a component that takes at most [`WIDEN_LIMIT`] bytes in f32, because widening a
    /// weight for every product costs more than that memory; otherwise like [`Self::Keep`].
    #[default]
    Auto,
    /// As stored, so that a bf16 checkpoint takes two bytes per value.
    Keep,
    /// Like [`Self::Keep`], but f32 in the half precision that the device multiplies in: for networks whose
    /// published pipelines run so.
    Half,
    /// Converted while reading.
    Cast(DType),
}

/// Tensors of one component by name, read on demand.
///
/// Like a candle `VarBuilder`: [`pp`](Self::pp) enters a module, clones share the files. Names, shapes and
/// types are checked, and [`unused`](Self::unused) lists the tensors that were never requested.
#[derive(Clone, Debug)]
pub struct Weights {
    pub(crate) set: Arc<TensorSet>,
    pub(crate) prefix: String,
}

pub(crate) struct TensorSet {
    files: Vec<OpenFile>,
    tensors: BTreeMap<String, Located>,
    uploads: Uploads,
    dtype: WeightDtype,
    ops: Ops,
    /// Whether some of the tensors are coded.
    is_coded: bool,
    /// Where unread tensors are noted.
    unread: Option<Unread>,
    /// What adapters change, by the names of the tensors.
    pub(crate) changes: BTreeMap<String, Vec<Change>>,
}

impl Drop for TensorSet {
    /// Components are read completely before the files are released: what is unread by now is never read.
    fn drop(&mut self) {
        let Some(notes) = &self.unread else { return };
        let is_read = |located: &Located| located.used.load(Ordering::Relaxed);
        if !self.tensors.values().any(is_read) {
            return;
        }
        let too_many = |located: &Located| !is_read(located) && !located.spare.load(Ordering::Relaxed);
        let left: Vec<&str> = self
            .tensors
            .iter()
            .filter(|(_, tensor)| too_many(tensor))
            .map(|(name, _)| name.as_str())
            .collect();
        if let (false, Some(file)) = (left.is_empty(), self.files.first()) {
            notes.note(&file.place, &left);
        }
    }
}

#[derive(Debug)]
struct OpenFile {
    place: String,
    blob: Blob,
    format: Format,
    metadata: Metadata,
}

struct Located {
    file: usize,
    info: TensorInfo,
    /// Its name in the file, or that of the tensor that contains it, if different.
    stored_as: Option<Box<str>>,
    used: AtomicBool,
    /// Whether it may stay unread, see [`Weights::spare`].
    spare: AtomicBool,
}

/// A tensor that is read.
struct Found<'a> {
    name: String,
    file: &'a OpenFile,
    /// With the axes that were asked for.
    info: TensorInfo,
    changes: &'a [Change],
}

impl Located {
    fn new(file: usize, info: TensorInfo, stored_as: Option<Box<str>>) -> Self {
        Self { file, info, stored_as, used: AtomicBool::new(false), spare: AtomicBool::new(false) }
    }
}

impl fmt::Debug for TensorSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TensorSet")
            .field("files", &self.files.iter().map(|file| &file.place).collect::<Vec<_>>())
            .field("tensors", &self.tensors.len())
            .field("device", self.uploads.device())
            .field("dtype", &self.dtype)
            .finish_non_exhaustive()
    }
}

impl Weights {
    /// Enters the module `name`.
    #[must_use]
    pub fn pp(&self, name: impl fmt::Display) -> Self {
        Self { set: Arc::clone(&self.set), prefix: format!("{}{name}.", self.prefix) }
    }

    /// A tensor of exactly this shape, in the type that the [`WeightDtype`] policy gives.
    ///
    /// # Errors
    /// [`CheckpointError::MissingTensor`], [`CheckpointError::WrongShape`],
    /// [`CheckpointError::UnsupportedDtype`].
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor, CheckpointError> {
        self.read(
            name,
            shape,
            match self.set.dtype {
                WeightDtype::Auto | WeightDtype::Keep | WeightDtype::Half => None,
                WeightDtype::Cast(dtype) => Some(dtype),
            },
        )
    }

    /// [`Self::get`] in f32 regardless of the policy: for norms, biases and other small tensors.
    pub fn get_f32(&self, name: &str, shape: &[usize]) -> Result<Tensor, CheckpointError> {
        self.read(name, shape, Some(DType::F32))
    }

    /// Whether the module has this tensor.
    pub fn contains(&self, name: &str) -> bool {
        self.set.tensors.contains_key(&self.full(name))
    }

    /// Shape of a tensor in the file, for models whose configuration is inferred from their tensors.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.set.tensors.get(&self.full(name)).map(|located| located.info.shape.as_slice())
    }

    /// Whether the file has the tensor in this shape, or in one that is read as it: without axes of length 1,
    /// or with neighbouring axes folded into one.
    pub fn fits(&self, name: &str, shape: &[usize]) -> bool {
        self.set.tensors.get(&self.full(name)).is_some_and(|located| located.info.shaped(shape).is_some())
    }

    /// Lengths of a tensor's axes, for configurations that are inferred from the tensors.
    ///
    /// # Errors
    /// A tensor that is missing or has another number of axes.
    pub fn axes<const N: usize>(&self, name: &str) -> Result<[usize; N], CheckpointError> {
        let shape = self.shape(name).ok_or_else(|| self.missing(&self.full(name)))?;
        shape.try_into().map_err(|_| CheckpointError::BadConfig {
            file: self.place(),
            reason: format!("tensor \"{name}\" has shape {shape:?}, expected {N} axes"),
        })
    }

    /// Length of the list of modules `list` (`blocks`, with or without the dot that follows it): one more
    /// than the largest number in it.
    pub fn count(&self, list: &str) -> usize {
        let prefix = format!("{}.", self.full(list.strip_suffix('.').unwrap_or(list)));
        let number = |name: &str| name.strip_prefix(&prefix)?.split('.').next()?.parse::<usize>().ok();
        self.names().filter_map(number).max().map_or(0, |last| last.saturating_add(1))
    }

    /// The operations of layers loaded from these tensors.
    pub fn ops(&self) -> Ops {
        self.set.ops
    }

    /// Full names of this module's tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.scoped().map(|(name, _)| name.as_str())
    }

    /// Full names of this module's tensors that were never requested, sorted.
    pub fn unused(&self) -> Vec<&str> {
        self.scoped()
            .filter(|(_, located)| !located.used.load(Ordering::Relaxed))
            .map(|(name, _)| name.as_str())
            .collect()
    }

    /// Marks those of this module's tensors whose names begin with one of `names` as not needed: parts of the
    /// published model that are unused here.
    pub fn spare(&self, names: &[&str]) {
        for (name, located) in self.scoped() {
            let own = name.strip_prefix(&self.prefix).unwrap_or(name);
            if names.iter().any(|start| own.starts_with(start)) {
                located.spare.store(true, Ordering::Relaxed);
            }
        }
    }

    /// The device that tensors are loaded to.
    pub fn device(&self) -> &Device {
        self.set.uploads.device()
    }

    /// The type in which a network of these weights computes: f32 on a CPU, elsewhere that of its largest
    /// tensors.
    pub fn compute_dtype(&self) -> DType {
        if self.device().is_cpu() {
            return DType::F32;
        }
        if let WeightDtype::Cast(dtype) = self.set.dtype {
            return dtype;
        }
        let largest = self.scoped().max_by_key(|(_, located)| located.info.bytes());
        match largest.map(|(_, located)| located.info.format) {
            Some(format) => self.kept_dtype(format),
            None => DType::F32,
        }
    }

    /// The format of the file, or of the first shard.
    pub fn format(&self) -> Format {
        self.set.files.first().map_or(Format::Safetensors, |file| file.format)
    }

    /// The file, or the first shard, as messages name it.
    pub fn place(&self) -> String {
        match self.set.files.as_slice() {
            [] => "a checkpoint without files".into(),
            [file] => file.place.clone(),
            [first, rest @ ..] => format!("{} and {} more", first.place, rest.len()),
        }
    }

    fn read(&self, name: &str, shape: &[usize], asked: Option<DType>) -> Result<Tensor, CheckpointError> {
        let Found { name, file, info, changes } = self.find(name, shape)?;
        let own = self.kept_dtype(info.format);
        let (wanted, to) = (asked.unwrap_or(own), &self.set.uploads);
        if changes.is_empty() {
            return read::tensor(&file.blob, &info, wanted, to).map_err(|e| self.unreadable(&name, e));
        }
        // Added in f32, rounded once; not at all where other tensors are coded, which are not rounded either.
        let wanted = if asked.is_none() && self.set.is_coded { DType::F32 } else { wanted };
        let stored = read::tensor(&file.blob, &info, DType::F32, to);
        let stored = stored.map_err(|error| self.unreadable(&name, error))?;
        let change = adapter::sum(changes, &name, shape, to.device())?;
        Ok((stored + change)?.to_dtype(wanted)?)
    }

    /// The error for a tensor that cannot be read, by its name in the file.
    fn unreadable(&self, name: &str, error: ReadError) -> CheckpointError {
        match error {
            ReadError::Tensor(error) => error.into(),
            ReadError::NotFinite(at, value) => {
                let located = self.set.tensors.get(name);
                let stored_as = located.and_then(|located| located.stored_as.as_deref());
                let file = located.and_then(|located| self.set.files.get(located.file));
                CheckpointError::NotFinite {
                    name: stored_as.unwrap_or(name).to_owned(),
                    file: file.map_or_else(|| self.place(), |file| file.place.clone()),
                    at,
                    value,
                }
            }
        }
    }

    /// Looks at every value of this module's tensors, also of those that stay coded in the file.
    ///
    /// # Errors
    /// [`CheckpointError::NotFinite`] for the first tensor with such a value.
    pub fn check_finite(&self) -> Result<(), CheckpointError> {
        self.scoped().try_for_each(|(name, located)| match self.set.files.get(located.file) {
            Some(file) => read::check(&file.blob, &located.info).map_err(|e| self.unreadable(name, e)),
            None => Ok(()),
        })
    }

    /// The type that a tensor is kept in, if none is asked for.
    fn kept_dtype(&self, stored: NumberFormat) -> DType {
        let (device, half) = (self.device(), half_precision(self.device()));
        match stored.float() {
            Some(DType::F32) if self.set.dtype == WeightDtype::Half => half,
            // Some cards do not multiply in bf16.
            Some(DType::BF16) => half,
            Some(float) => float,
            // A coded tensor has no type of its own that candle computes with.
            None if device.is_cpu() => DType::F32,
            None => half,
        }
    }

    /// A tensor that is about to be read, of exactly this shape.
    fn find(&self, name: &str, shape: &[usize]) -> Result<Found<'_>, CheckpointError> {
        let name = self.full(name);
        let Some(located) = self.set.tensors.get(&name) else { return Err(self.missing(&name)) };
        let Some(file) = self.set.files.get(located.file) else { return Err(self.missing(&name)) };
        let (place, stored_as) = (file.place.clone(), located.stored_as.clone());
        let Some(info) = located.info.shaped(shape) else {
            let (expected, found) = (shape.to_vec(), located.info.shape.clone());
            return Err(CheckpointError::WrongShape { name, stored_as, file: place, expected, found });
        };
        if let NumberFormat::Other(dtype) = info.format {
            let dtype = dtype.to_string();
            return Err(CheckpointError::UnsupportedDtype { name, stored_as, file: place, dtype });
        }
        located.used.store(true, Ordering::Relaxed);
        let changes = self.set.changes.get(&name).map(Vec::as_slice).unwrap_or_default();
        Ok(Found { name, file, info, changes })
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn scoped(&self) -> impl Iterator<Item = (&String, &Located)> {
        self.set.tensors.iter().filter(|(name, _)| name.starts_with(&self.prefix))
    }

    /// The error for a missing tensor, with the most similar existing name.
    pub fn missing(&self, name: &str) -> CheckpointError {
        let distance = |other: &&String| strsim::levenshtein(name, other);
        let nearest = self.set.tensors.keys().min_by_key(distance).cloned();
        CheckpointError::MissingTensor { name: name.to_owned(), file: self.place(), nearest }
    }
}
