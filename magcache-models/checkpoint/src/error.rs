//! What can be wrong with a checkpoint.

use std::path::PathBuf;

/// Why a model could not be loaded. `file` is the path as the user can find it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A file or folder that the model needs does not exist.
    #[error("{file} does not exist")]
    MissingFile {
        /// The path that was looked for.
        file: String,
        /// What it should have been.
        expected: String,
    },
    /// A part of a model of single files that no file was given for.
    #[error("the model's {part} is missing")]
    MissingPart {
        /// What it is.
        part: &'static str,
        /// How to give it, and where it is usually found.
        hint: String,
    },
    /// The system could not open, map or read a file.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A path inside a checkpoint that leaves its folder.
    #[error("{file} names \"{path}\", which is not a path inside its folder")]
    OutsideFolder {
        /// The file with the path in it.
        file: String,
        /// The path as written.
        path: String,
    },
    /// A file shorter than its header says.
    #[error("{file} is truncated: got {found} bytes, its header needs {expected}")]
    Truncated {
        /// The file.
        file: String,
        /// Bytes that the header announces, including itself.
        expected: u64,
        /// Bytes in the file.
        found: u64,
    },
    /// A file whose first bytes are not a safetensors header.
    #[error("{file} has no valid safetensors header: {reason}")]
    BadHeader {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// A GGUF file that is damaged or contains what is not supported.
    #[error("cannot read {file} as GGUF: {reason}, at byte {at}")]
    BadGguf {
        /// The file.
        file: String,
        /// Where the fault is.
        at: u64,
        /// What is wrong.
        reason: String,
    },
    /// A file of `torch.save` that is damaged or in a form that is not supported.
    #[error("cannot read {file} as a PyTorch checkpoint: {reason}")]
    BadTorchFile {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
        /// What the user can do about it, if anything.
        hint: Option<&'static str>,
    },
    /// A pickle that contains more than tensors. Loading it elsewhere would run that code.
    #[error("{file} asks for \"{name}\", which is not part of a tensor; nothing of it was run")]
    CodeInPickle {
        /// The file.
        file: String,
        /// Module and name of the class or function.
        name: String,
    },
    /// A folder in no known layout.
    #[error("{folder} is not a model folder that can be read")]
    UnknownLayout {
        /// The folder.
        folder: String,
        /// What each layout would contain.
        looked_for: Vec<String>,
    },
    /// A JSON file that cannot be parsed as what it should contain.
    #[error("cannot parse {file}")]
    Json {
        /// The file.
        file: String,
        /// Line, column and reason.
        source: serde_json::Error,
    },
    /// A text file that is not UTF-8.
    #[error("{file} is not UTF-8 text")]
    NotText {
        /// The file.
        file: String,
    },
    /// A configuration whose values cannot be used together or are not supported.
    #[error("{file}: {reason}")]
    BadConfig {
        /// The file, or the component if there is no file.
        file: String,
        /// What is wrong, with the key and both values.
        reason: String,
    },
    /// A configuration that its reader rejects.
    #[error("{file}: {reason}")]
    Config {
        /// The file.
        file: String,
        /// What is wrong, with the key and both values.
        reason: String,
        /// What the user can do about it, if anything.
        hint: Option<String>,
    },
    /// A folder that contains another kind of model.
    #[error("{file} describes \"{found}\", expected \"{expected}\"")]
    WrongArchitecture {
        /// The configuration.
        file: String,
        /// The expected class.
        expected: String,
        /// The class that the configuration names.
        found: String,
    },
    /// A tensor that the model needs and the checkpoint lacks.
    #[error("{file} has no tensor \"{name}\"")]
    MissingTensor {
        /// Name in the checkpoint's layout.
        name: String,
        /// File, or files of a sharded checkpoint.
        file: String,
        /// The most similar name that exists.
        nearest: Option<String>,
    },
    /// A tensor that the model has no place for: ignoring it could change the meaning of the others.
    #[error("{file} has a tensor \"{name}\", a {model} has none")]
    SurplusTensor {
        /// Name in the checkpoint's layout.
        name: String,
        /// The file.
        file: String,
        /// The kind of model that the other tensors form.
        model: &'static str,
    },
    /// Two tensors with the same name.
    #[error("tensor \"{name}\" is in {first} and again in {second}")]
    DuplicateTensor {
        /// The name.
        name: String,
        /// One file.
        first: String,
        /// The other, which may be the same.
        second: String,
    },
    /// A tensor whose shape does not fit the configuration.
    #[error(
        "tensor \"{name}\"{} in {file} has shape {found:?}, the configuration needs {expected:?}",
        stored(stored_as.as_deref())
    )]
    WrongShape {
        /// The name under which the model requested it.
        name: String,
        /// The tensor in the file that contains it, if that has another name.
        stored_as: Option<Box<str>>,
        /// The file.
        file: String,
        /// Shape that follows from the configuration.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// A tensor stored in a type that this project does not compute with.
    #[error(
        "tensor \"{name}\"{} in {file} is stored as {dtype}, supported are floats of 8, 16 and 32 bits and GGUF's blocks",
        stored(stored_as.as_deref())
    )]
    UnsupportedDtype {
        /// The name under which the model requested it.
        name: String,
        /// The tensor in the file that contains it, if that has another name.
        stored_as: Option<Box<str>>,
        /// The file.
        file: String,
        /// The type in the file.
        dtype: String,
    },
    /// A value that no network computes with: infinite, not a number, or too large for its square.
    #[error("tensor \"{name}\" in {file} is not finite or far too large: {value} at position {at}")]
    NotFinite {
        /// The name in the file.
        name: String,
        /// The file.
        file: String,
        /// Position of the first such value in the file's order.
        at: usize,
        /// The value.
        value: f32,
    },
    /// An adapter that cannot be applied to the model.
    #[error("cannot apply {file}: {reason}")]
    Adapter {
        /// The file.
        file: String,
        /// What is wrong, with names from the file.
        reason: String,
        /// What the user can do about it, if anything.
        hint: Option<String>,
    },
    /// A tokenizer that cannot be built from its file.
    #[error("cannot use the tokenizer in {file}: {reason}")]
    Tokenizer {
        /// The file.
        file: String,
        /// The tokenizer library's error.
        reason: String,
    },
    /// The tensor library failed, for instance because device memory ran out.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl CheckpointError {
    /// What the user can do about it, if anything.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::MissingFile { expected, .. } => format!("expected {expected}"),
            Self::Truncated { .. } | Self::NotFinite { .. } => {
                "the file is damaged: download it again".to_owned()
            }
            Self::BadTorchFile { hint, .. } => (*hint)?.to_owned(),
            Self::MissingPart { hint, .. } => hint.clone(),
            Self::Config { hint, .. } | Self::Adapter { hint, .. } => hint.clone()?,
            Self::CodeInPickle { .. } => {
                "save the model's state_dict(), or convert it to safetensors".to_owned()
            }
            Self::UnknownLayout { looked_for, .. } => format!("looked for {}", looked_for.join("; ")),
            Self::MissingTensor { nearest, .. } => format!("the nearest name is \"{}\"", nearest.as_ref()?),
            Self::SurplusTensor { .. } => {
                "it may belong to a quantised file or to a part that is not implemented".to_owned()
            }
            _ => return None,
        })
    }
}

fn stored(stored_as: Option<&str>) -> String {
    stored_as.map(|name| format!(" (in the file \"{name}\")")).unwrap_or_default()
}
