//! The tensors of one component.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use candle_core::{DType, Device, Tensor};
use sha2::{Digest, Sha256};

use super::{
    CheckpointError, Folder, Ops,
    blob::Blob,
    files::{self, Files},
    header::{self, TensorInfo},
    mapped::Mapped,
    read, torch,
    unread::Unread,
};

/// How a file of tensors is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A JSON header and the data.
    Safetensors,
    /// What `torch.save` writes: `.pth`, `.pt`, `.bin`.
    PyTorch,
}

impl Format {
    /// The format's name in messages and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::PyTorch => "pytorch",
        }
    }
}

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
    /// Converted while reading.
    Cast(DType),
}

/// Tensors of one component by name, read on demand.
///
/// Like a candle `VarBuilder`: [`pp`](Self::pp) enters a module, clones share the files. Names, shapes and
/// types are checked, and [`unused`](Self::unused) lists the tensors that were never requested.
#[derive(Clone, Debug)]
pub struct Weights {
    set: Arc<TensorSet>,
    prefix: String,
}

struct TensorSet {
    files: Vec<OpenFile>,
    tensors: BTreeMap<String, Located>,
    device: Device,
    dtype: WeightDtype,
    ops: Ops,
    /// Where unread tensors are noted.
    unread: Option<Unread>,
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
            .field("device", &self.device)
            .field("dtype", &self.dtype)
            .finish_non_exhaustive()
    }
}

impl Weights {
    /// Opens a component's folder: one `diffusion_pytorch_model.safetensors` or `model.safetensors`, their
    /// PyTorch counterparts (`.bin`, `.pth`), or the shards that `*.index.json` lists.
    ///
    /// # Errors
    /// A missing file, or any fault of a file's header; a tensor that the index lists and its shard lacks.
    pub fn open(folder: &Folder, device: &Device, dtype: WeightDtype) -> Result<Self, CheckpointError> {
        let Files { names, tensors } = files::locate(folder)?;
        let weights = Self::open_files(folder, &names, device, dtype)?;
        match tensors.iter().find(|name| !weights.contains(name)) {
            Some(name) => Err(weights.missing(name)),
            None => Ok(weights),
        }
    }

    /// Names of the files that [`Self::open`] opens, without opening them.
    ///
    /// # Errors
    /// [`CheckpointError::MissingFile`] if one of them is missing.
    pub fn locate(folder: &Folder) -> Result<Vec<String>, CheckpointError> {
        files::locate(folder).map(|files| files.names)
    }

    /// Opens the given files of a folder as one component.
    pub fn open_files<S: AsRef<str>>(
        folder: &Folder,
        files: &[S],
        device: &Device,
        dtype: WeightDtype,
    ) -> Result<Self, CheckpointError> {
        let open = |name: &S| Ok((folder.describe_file(name.as_ref()), folder.blob(name.as_ref())?));
        let files = files.iter().map(open).collect::<Result<_, CheckpointError>>()?;
        Self::from_blobs(files, device, dtype, (folder.ops(), Some(folder.notes())))
    }

    /// A safetensors or PyTorch file in memory; messages call it `place`.
    pub fn from_bytes(
        place: &str,
        bytes: impl Into<Cow<'static, [u8]>>,
        device: &Device,
        dtype: WeightDtype,
    ) -> Result<Self, CheckpointError> {
        Self::from_blobs(
            vec![(place.to_owned(), Blob::Memory(bytes.into()))],
            device,
            dtype,
            (Ops::default(), None),
        )
    }

    fn from_blobs(
        blobs: Vec<(String, Blob)>,
        device: &Device,
        dtype: WeightDtype,
        (ops, unread): (Ops, Option<Unread>),
    ) -> Result<Self, CheckpointError> {
        let mut files: Vec<OpenFile> = Vec::with_capacity(blobs.len());
        let mut tensors = BTreeMap::<String, Located>::new();
        for (place, blob) in blobs {
            let bytes = blob.bytes();
            let format = if torch::is_torch(bytes) { Format::PyTorch } else { Format::Safetensors };
            let read = match format {
                Format::PyTorch => torch::parse,
                Format::Safetensors => header::parse,
            };
            for (name, info) in read(&place, bytes)? {
                if let Some(other) = tensors.get(&name) {
                    let first = files.get(other.file).map(|file| file.place.clone()).unwrap_or_default();
                    return Err(CheckpointError::DuplicateTensor { name, first, second: place });
                }
                tensors.insert(name, Located::new(files.len(), info, None));
            }
            files.push(OpenFile { place, blob, format });
        }
        let dtype = match dtype {
            WeightDtype::Auto => {
                let values: usize =
                    tensors.values().map(|located| located.info.shape.iter().product::<usize>()).sum();
                let small = device.is_cpu() && values <= WIDEN_LIMIT / DType::F32.size_in_bytes();
                if small { WeightDtype::Cast(DType::F32) } else { WeightDtype::Keep }
            }
            chosen => chosen,
        };
        let set = TensorSet { files, tensors, device: device.clone(), dtype, ops, unread };
        Ok(Self { set: Arc::new(set), prefix: String::new() })
    }

    /// The same tensors under other names; those for which `rename` returns `None` keep theirs.
    ///
    /// # Errors
    /// As [`Self::mapped`].
    pub fn renamed(self, rename: impl Fn(&str) -> Option<String>) -> Result<Self, CheckpointError> {
        self.mapped(|name| rename(name).map(Mapped::Same))
    }

    /// The same values as the tensors of another layout; those for which `map` returns `None` stay unchanged.
    ///
    /// Must be called before any tensor is read or any clone is made.
    ///
    /// # Errors
    /// [`CheckpointError::DuplicateTensor`] if two tensors get the same name, [`CheckpointError::BadConfig`]
    /// if a tensor's shape does not allow its mapping or clones already share the tensors.
    pub fn mapped(self, map: impl Fn(&str) -> Option<Mapped>) -> Result<Self, CheckpointError> {
        let place = self.place();
        let Some(mut set) = Arc::into_inner(self.set) else {
            return Err(CheckpointError::BadConfig {
                file: place,
                reason: "its tensors are in use already".into(),
            });
        };
        let mut tensors = BTreeMap::new();
        for (old, Located { file, info, stored_as, .. }) in std::mem::take(&mut set.tensors) {
            let mapped = map(&old).unwrap_or_else(|| Mapped::Same(old.clone()));
            let shape = info.shape.clone();
            let Some(parts) = mapped.apply(info) else {
                let reason = format!("tensor \"{old}\" has shape {shape:?}, which does not fit its place");
                return Err(CheckpointError::BadConfig { file: place, reason });
            };
            for (name, info) in parts {
                if tensors.contains_key(&name) {
                    return Err(CheckpointError::DuplicateTensor {
                        name,
                        first: place.clone(),
                        second: place,
                    });
                }
                let stored_as = stored_as.clone().or_else(|| (name != old).then(|| old.as_str().into()));
                tensors.insert(name, Located::new(file, info, stored_as));
            }
        }
        set.tensors = tensors;
        Ok(Self { set: Arc::new(set), prefix: self.prefix })
    }

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
                WeightDtype::Auto | WeightDtype::Keep => None,
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

    /// SHA-256 over the names, types, shapes and bytes of this module's tensors, by name: tells whether two
    /// checkpoints of one layout are identical. Reads every byte once.
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        for (name, located) in self.scoped() {
            let TensorInfo { dtype, shape, range, .. } = &located.info;
            hash.update(format!("{name} {dtype:?} {shape:?}\n"));
            if let Some(file) = self.set.files.get(located.file) {
                hash.update(file.blob.bytes().get(range.clone()).unwrap_or_default());
                file.blob.release(range.clone());
            }
        }
        format!("{:x}", hash.finalize())
    }

    /// Bytes that this module's tensors take in the file.
    pub fn total_bytes(&self) -> u64 {
        self.scoped().map(|(_, located)| located.info.bytes() as u64).sum()
    }

    /// Number of values in this module's tensors.
    pub fn parameters(&self) -> u64 {
        self.scoped().map(|(_, located)| located.info.shape.iter().map(|n| *n as u64).product::<u64>()).sum()
    }

    /// The storage types in this module, with the bytes in each.
    pub fn stored_dtypes(&self) -> BTreeMap<String, u64> {
        let mut bytes = BTreeMap::new();
        for (_, located) in self.scoped() {
            *bytes.entry(located.info.dtype.to_string()).or_default() += located.info.bytes() as u64;
        }
        bytes
    }

    /// The device that tensors are loaded to.
    pub fn device(&self) -> &Device {
        &self.set.device
    }

    /// The type in which a network of these weights computes: f32 on a CPU, elsewhere that of its largest
    /// tensors.
    pub fn compute_dtype(&self) -> DType {
        if self.set.device.is_cpu() {
            return DType::F32;
        }
        if let WeightDtype::Cast(dtype) = self.set.dtype {
            return dtype;
        }
        let largest = self.scoped().max_by_key(|(_, located)| located.info.bytes());
        largest.and_then(|(_, located)| read::supported(located.info.dtype)).unwrap_or(DType::F32)
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

    fn read(&self, name: &str, shape: &[usize], wanted: Option<DType>) -> Result<Tensor, CheckpointError> {
        let name = self.full(name);
        let Some(located) = self.set.tensors.get(&name) else { return Err(self.missing(&name)) };
        let Some(file) = self.set.files.get(located.file) else { return Err(self.missing(&name)) };
        let (info, place) = (&located.info, file.place.clone());
        if info.shape != shape {
            let (expected, found) = (shape.to_vec(), info.shape.clone());
            let stored_as = located.stored_as.clone();
            return Err(CheckpointError::WrongShape { name, stored_as, file: place, expected, found });
        }
        let Some(stored) = read::supported(info.dtype) else {
            return Err(CheckpointError::UnsupportedDtype {
                name,
                stored_as: located.stored_as.clone(),
                file: place,
                dtype: info.dtype.to_string(),
            });
        };
        let tensor = read::tensor(&file.blob, info, wanted.unwrap_or(stored), &self.set.device)?;
        located.used.store(true, Ordering::Relaxed);
        Ok(tensor)
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
