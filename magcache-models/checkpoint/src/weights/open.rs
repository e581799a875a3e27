//! From files to tensors.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use candle_core::{DType, Device};

use super::{Located, OpenFile, TensorSet, WIDEN_LIMIT, WeightDtype, Weights};
use crate::{
    CheckpointError, Folder, Ops,
    blob::Blob,
    files::{self, Files},
    gguf,
    header::{self, Contents},
    mapped::Mapped,
    scales::{self, Loose},
    torch,
    unread::Unread,
    upload::Uploads,
};

/// How a file of tensors is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A JSON header and the data.
    Safetensors,
    /// What `torch.save` writes: `.pth`, `.pt`, `.bin`.
    PyTorch,
    /// The container of ggml.
    Gguf,
}

impl Format {
    /// The format's name in messages and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::PyTorch => "pytorch",
            Self::Gguf => "gguf",
        }
    }

    /// The format of a file, by its first bytes.
    fn of(bytes: &[u8]) -> Self {
        if gguf::is_gguf(bytes) {
            Self::Gguf
        } else if torch::is_torch(bytes) {
            Self::PyTorch
        } else {
            Self::Safetensors
        }
    }

    /// The tensors of a file, and the scales in it.
    fn parse(self, place: &str, bytes: &[u8]) -> Result<(Contents, Vec<Loose>), CheckpointError> {
        let mut contents = match self {
            Self::Safetensors => header::parse(place, bytes),
            Self::Gguf => gguf::parse(place, bytes),
            Self::PyTorch => torch::parse(place, bytes)
                .map(|tensors| Contents { tensors, metadata: crate::metadata::Metadata::default() }),
        }?;
        let loose = scales::taken(place, bytes, &mut contents)?;
        Ok((contents, loose))
    }
}

impl Weights {
    /// Opens a component's folder: one `diffusion_pytorch_model.safetensors` or `model.safetensors`, their
    /// PyTorch counterparts (`.bin`, `.pth`), the shards that `*.index.json` lists, or one
    /// `diffusion_pytorch_model.gguf` with the names of diffusers.
    ///
    /// # Errors
    /// A missing file, or any fault of a file's header; a tensor that the index lists and its shard lacks.
    pub fn open(folder: &Folder, device: &Device, dtype: WeightDtype) -> Result<Self, CheckpointError> {
        let Files { names, tensors } = files::locate(folder)?;
        let weights = Self::open_files(folder, &names, device, dtype)?;
        match tensors.iter().find(|name| !weights.contains(name) && !scales::is_beside(name)) {
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

    /// A file of tensors in memory; messages call it `place`.
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
        let (mut tensors, mut loose) = (BTreeMap::<String, Located>::new(), Vec::new());
        for (place, blob) in blobs {
            let bytes = blob.bytes();
            let format = Format::of(bytes);
            let (contents, scales) = format.parse(&place, bytes)?;
            loose.extend(scales);
            for (name, info) in contents.tensors {
                if let Some(other) = tensors.get(&name) {
                    let first = files.get(other.file).map(|file| file.place.clone()).unwrap_or_default();
                    return Err(CheckpointError::DuplicateTensor { name, first, second: place });
                }
                tensors.insert(name, Located::new(files.len(), info, None));
            }
            files.push(OpenFile { place, blob, format, metadata: contents.metadata });
        }
        for scale in loose {
            let weight = tensors.get_mut(&scale.weight).map(|located| &mut located.info);
            scale.attach(weight)?;
        }
        let dtype = match dtype {
            WeightDtype::Auto => {
                let values: usize = tensors.values().map(|located| located.info.values()).sum();
                let small = device.is_cpu() && values <= WIDEN_LIMIT / DType::F32.size_in_bytes();
                if small { WeightDtype::Cast(DType::F32) } else { WeightDtype::Keep }
            }
            chosen => chosen,
        };
        let (uploads, changes) = (Uploads::to(device), BTreeMap::new());
        let is_coded = tensors.values().any(|located| located.info.format.is_coded());
        let set = TensorSet { files, tensors, uploads, dtype, ops, is_coded, unread, changes };
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
        let mut set = self.into_set()?;
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
        Ok(Self { set: Arc::new(set), prefix: String::new() })
    }

    /// The tensors themselves, if nothing else has a handle to them.
    pub(crate) fn into_set(self) -> Result<TensorSet, CheckpointError> {
        let file = self.place();
        Arc::into_inner(self.set).ok_or_else(|| CheckpointError::BadConfig {
            file,
            reason: "its tensors are in use already".into(),
        })
    }
}
