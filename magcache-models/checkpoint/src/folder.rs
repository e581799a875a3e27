//! A folder with a model's files, on disk or inside the binary.

use std::{
    borrow::Cow,
    fmt,
    path::{Component, Path, PathBuf},
};

use serde::de::DeserializeOwned;

use super::{CheckpointError, Ops, blob::Blob, unread::Unread};

/// One file inside the binary: its path relative to the folder, with `/` between the parts, and its bytes.
pub type EmbeddedFile = (&'static str, &'static [u8]);

/// Where a model's files come from.
///
/// Cheap to clone. Paths are relative to the folder and use `/`.
#[derive(Clone, Debug)]
pub struct Folder {
    backing: Backing,
    unread: Unread,
    ops: Ops,
}

#[derive(Clone)]
enum Backing {
    Disk(PathBuf),
    Embedded { name: &'static str, prefix: String, files: Vec<&'static [EmbeddedFile]> },
}

impl fmt::Debug for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(path) => f.debug_tuple("Disk").field(path).finish(),
            Self::Embedded { name, prefix, .. } => {
                f.debug_tuple("Embedded").field(name).field(prefix).finish()
            }
        }
    }
}

impl Folder {
    fn of(backing: Backing) -> Self {
        Self { backing, unread: Unread::default(), ops: Ops::default() }
    }

    /// The same folder, with other operations for the layers loaded from it.
    #[must_use]
    pub fn computing_with(self, ops: Ops) -> Self {
        Self { ops, ..self }
    }

    /// The operations of layers loaded from this folder.
    pub fn ops(&self) -> Ops {
        self.ops
    }

    /// A directory on disk.
    ///
    /// # Errors
    /// [`CheckpointError::MissingFile`] when there is no directory at `path`.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, CheckpointError> {
        let path = path.into();
        if !path.is_dir() {
            return Err(CheckpointError::MissingFile {
                file: path.display().to_string(),
                expected: "a model folder".into(),
            });
        }
        Ok(Self::of(Backing::Disk(path)))
    }

    /// Files inside the binary; messages call the folder `name`.
    pub fn embedded(name: &'static str, files: &'static [EmbeddedFile]) -> Self {
        Self::of(Backing::Embedded { name, prefix: String::new(), files: vec![files] })
    }

    /// The same folder plus the embedded files of `files` that it lacks, for models that share parts. A
    /// folder on disk is unchanged.
    #[must_use]
    pub fn or_embedded(mut self, more: &'static [EmbeddedFile]) -> Self {
        if let Backing::Embedded { files, .. } = &mut self.backing {
            files.push(more);
        }
        self
    }

    /// The folder `name` inside this one; it need not exist.
    #[must_use]
    pub fn sub(&self, name: &str) -> Self {
        let backing = match &self.backing {
            Backing::Disk(path) => Backing::Disk(path.join(name)),
            Backing::Embedded { name: folder, prefix, files } => {
                Backing::Embedded { name: folder, prefix: format!("{prefix}{name}/"), files: files.clone() }
            }
        };
        Self { backing, ..self.clone() }
    }

    /// Warnings for the user, since the last call, about components loaded from this folder or a folder
    /// inside it: tensors that nothing read, which may belong to a missing part of the model. Each is
    /// reported once.
    pub fn unread(&self) -> Vec<String> {
        self.unread.take()
    }

    /// The collection that [`Self::unread`] empties.
    pub(super) fn notes(&self) -> Unread {
        self.unread.clone()
    }

    /// Where it is on disk, if it is.
    pub fn path(&self) -> Option<&Path> {
        match &self.backing {
            Backing::Disk(path) => Some(path),
            Backing::Embedded { .. } => None,
        }
    }

    /// How users find the folder: its path, or its name in the binary.
    pub fn describe(&self) -> String {
        match &self.backing {
            Backing::Disk(path) => path.display().to_string(),
            Backing::Embedded { name, prefix, .. } => {
                format!("{name}/{prefix}").trim_end_matches('/').to_owned()
            }
        }
    }

    /// [`Self::describe`] for a file of the folder.
    pub fn describe_file(&self, rel: &str) -> String {
        match &self.backing {
            Backing::Disk(path) => path.join(rel).display().to_string(),
            Backing::Embedded { .. } => format!("{}/{rel}", self.describe()),
        }
    }

    /// Whether the file exists.
    pub fn exists(&self, rel: &str) -> bool {
        match &self.backing {
            Backing::Disk(path) => path.join(rel).is_file(),
            Backing::Embedded { .. } => self.find(rel).is_some(),
        }
    }

    /// Names of the files directly in this folder, sorted; empty when the folder does not exist.
    pub fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = match &self.backing {
            Backing::Disk(path) => path
                .read_dir()
                .into_iter()
                .flatten()
                .flatten()
                .filter(|entry| entry.path().is_file())
                .filter_map(|entry| entry.file_name().into_string().ok())
                .collect(),
            Backing::Embedded { prefix, files, .. } => files
                .iter()
                .copied()
                .flatten()
                .filter_map(|(path, _)| path.strip_prefix(prefix.as_str()))
                .filter(|rest| !rest.contains('/'))
                .map(str::to_owned)
                .collect(),
        };
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The whole file; for configurations, not for tensors.
    pub fn read(&self, rel: &str) -> Result<Cow<'static, [u8]>, CheckpointError> {
        match &self.backing {
            Backing::Disk(path) => {
                let path = path.join(rel);
                match std::fs::read(&path) {
                    Ok(bytes) => Ok(bytes.into()),
                    Err(source) if source.kind() == std::io::ErrorKind::NotFound => Err(self.missing(rel)),
                    Err(source) => Err(CheckpointError::Io { path, source }),
                }
            }
            Backing::Embedded { .. } => self.find(rel).map(Cow::Borrowed).ok_or_else(|| self.missing(rel)),
        }
    }

    /// The whole file as text.
    pub fn read_to_string(&self, rel: &str) -> Result<String, CheckpointError> {
        String::from_utf8(self.read(rel)?.into_owned())
            .map_err(|_| CheckpointError::NotText { file: self.describe_file(rel) })
    }

    /// The file parsed as JSON.
    ///
    /// # Errors
    /// [`CheckpointError::Json`] with the file and the position when it is not what `T` expects.
    pub fn read_json<T: DeserializeOwned>(&self, rel: &str) -> Result<T, CheckpointError> {
        serde_json::from_slice(&self.read(rel)?)
            .map_err(|source| CheckpointError::Json { file: self.describe_file(rel), source })
    }

    /// The file for reading tensors from, not loaded as a whole.
    pub(super) fn blob(&self, rel: &str) -> Result<Blob, CheckpointError> {
        match &self.backing {
            Backing::Disk(path) if self.exists(rel) => Blob::map(&path.join(rel)),
            Backing::Disk(_) => Err(self.missing(rel)),
            Backing::Embedded { .. } => Ok(Blob::Memory(self.read(rel)?)),
        }
    }

    /// Checks that a path read from `file` stays inside this folder.
    pub(super) fn inside<'p>(&self, file: &str, path: &'p str) -> Result<&'p str, CheckpointError> {
        let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
        if path.is_empty() || !Path::new(path).components().all(plain) {
            return Err(CheckpointError::OutsideFolder {
                file: self.describe_file(file),
                path: path.to_owned(),
            });
        }
        Ok(path)
    }

    fn find(&self, rel: &str) -> Option<&'static [u8]> {
        let Backing::Embedded { prefix, files, .. } = &self.backing else { return None };
        files
            .iter()
            .copied()
            .flatten()
            .find(|(path, _)| path.strip_prefix(prefix.as_str()) == Some(rel))
            .map(|(_, bytes)| *bytes)
    }

    fn missing(&self, rel: &str) -> CheckpointError {
        CheckpointError::MissingFile {
            file: self.describe_file(rel),
            expected: "a model in the diffusers folder layout".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static FILES: [EmbeddedFile; 3] =
        [("model_index.json", b"{}"), ("vae/config.json", b"{\"a\": 1"), ("vae/b/c.txt", b"\xff")];

    #[test]
    fn both_kinds_of_folder_answer_alike() {
        let root = tempfile::tempdir().expect("a temporary directory");
        for (path, bytes) in FILES {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("has a parent")).expect("can be made");
            std::fs::write(path, bytes).expect("can be written");
        }
        for folder in [Folder::embedded("tiny", &FILES), Folder::open(root.path()).expect("exists")] {
            assert_eq!(folder.files(), ["model_index.json"]);
            let vae = folder.sub("vae");
            assert_eq!(vae.files(), ["config.json"]);
            assert!(vae.exists("config.json") && !vae.exists("model_index.json") && !vae.exists("b"));
            assert_eq!(folder.read_to_string("model_index.json").expect("is text"), "{}");
            let place = vae.describe_file("config.json");
            let error =
                vae.read_json::<serde_json::Value>("config.json").expect_err("is cut off").to_string();
            assert!(error.contains(&place), "{error}");
            assert!(matches!(vae.sub("b").read_to_string("c.txt"), Err(CheckpointError::NotText { .. })));
            assert!(matches!(folder.read("x.json"), Err(CheckpointError::MissingFile { .. })));
            assert!(folder.sub("none").files().is_empty());
        }
        let embedded = Folder::embedded("tiny", &FILES).sub("vae");
        assert_eq!(embedded.describe(), "tiny/vae");
        assert!(matches!(Folder::open(root.path().join("no")), Err(CheckpointError::MissingFile { .. })));
    }

    #[test]
    fn a_path_may_not_leave_the_folder() {
        let folder = Folder::embedded("tiny", &FILES);
        assert!(folder.inside("i.json", "a-00001-of-00002.safetensors").is_ok());
        for path in ["../x", "/etc/passwd", "", "a/../../x", "./x"] {
            let refused = matches!(folder.inside("i.json", path), Err(CheckpointError::OutsideFolder { .. }));
            assert!(refused, "{path}");
        }
    }
}
