//! Files and folders that appear under their name only when complete.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile, TempDir};

use super::MediaError;

/// The folder of `target`; `.` for a bare name.
fn folder_of(target: &Path) -> &Path {
    match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// The temporary name: hidden, and next to the target, so that the final rename stays on one disk.
fn beside(target: &Path) -> String {
    format!(".{}.", target.file_name().unwrap_or_default().to_string_lossy())
}

const PART: &str = ".part";

/// Removes temporary files of `target` that killed processes left next to it.
pub(crate) fn sweep(target: &Path) -> Result<(), MediaError> {
    let (folder, prefix) = (folder_of(target), beside(target));
    for entry in fs::read_dir(folder).map_err(MediaError::io(folder, "read the folder"))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let random = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(PART));
        if random.is_none_or(|random| random.contains('.')) {
            continue;
        }
        let path = entry.path();
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(MediaError::io(&path, "remove what a killed run left"))?;
    }
    Ok(())
}

/// Checks, without leaving a trace, that `target` can be created: its nearest existing parent folder accepts
/// a file.
pub(crate) fn probe(target: &Path) -> Result<(), MediaError> {
    let mut folder = folder_of(target);
    while !folder.exists() {
        folder = folder_of(folder);
    }
    if !folder.is_dir() {
        return Err(MediaError::WrongKind { path: folder.to_owned(), is: "file", needed: "folder" });
    }
    tempfile::tempfile_in(folder).map(drop).map_err(MediaError::io(folder, "write to this folder"))
}

/// Folders created for a target; those that are still empty are removed when this is dropped.
#[derive(Debug)]
struct MadeFolders(Vec<PathBuf>);

impl MadeFolders {
    fn above(target: &Path) -> Result<Self, MediaError> {
        let folder = folder_of(target);
        let mut made = Vec::new();
        let mut missing = folder;
        while !missing.exists() {
            made.push(missing.to_owned());
            missing = folder_of(missing);
        }
        let made = Self(made);
        fs::create_dir_all(folder).map_err(MediaError::io(folder, "create the folder"))?;
        Ok(made)
    }
}

impl Drop for MadeFolders {
    fn drop(&mut self) {
        for folder in &self.0 {
            // Fails if the folder is not empty, as intended after a success.
            if fs::remove_dir(folder).is_err() {
                break;
            }
        }
    }
}

/// An unfinished file. Dropping it removes it; [`StagedFile::commit`] gives it its name.
#[derive(Debug)]
pub(super) struct StagedFile {
    target: PathBuf,
    // Must be dropped before the folders, which are removed only if empty.
    file: BufWriter<NamedTempFile>,
    folders: MadeFolders,
}

impl StagedFile {
    pub(super) fn create(target: &Path) -> Result<Self, MediaError> {
        let folders = MadeFolders::above(target)?;
        let prefix = beside(target);
        let mut builder = Builder::new();
        builder.prefix(&prefix).suffix(PART);
        // A temporary file is private by default; the finished one should have normal permissions.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file =
            builder.tempfile_in(folder_of(target)).map_err(MediaError::io(target, "create a file beside"))?;
        Ok(Self { target: target.to_owned(), file: BufWriter::new(file), folders })
    }

    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// An anonymous scratch file on the same disk, which the operating system removes when it is closed.
    pub(super) fn scratch(&self) -> Result<File, MediaError> {
        tempfile::tempfile_in(folder_of(&self.target))
            .map_err(MediaError::io(&self.target, "create a file beside"))
    }

    /// Completes the file and moves it into place, replacing any earlier file of that name.
    pub(super) fn commit(self) -> Result<(), MediaError> {
        let Self { target, file, folders } = self;
        let wrote = |source| MediaError::io(&target, "write")(source);
        let file = file.into_inner().map_err(|e| wrote(e.into_error()))?;
        // After a crash, the final name must not refer to partial data.
        file.as_file().sync_all().map_err(wrote)?;
        file.persist(&target)
            .map_err(|e| MediaError::io(&target, "put the finished file in place")(e.error))?;
        drop(folders);
        Ok(())
    }
}

impl Write for StagedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Writes a whole file; it appears under its name only when complete.
pub(crate) fn write_file(target: &Path, content: &[u8]) -> Result<(), MediaError> {
    let mut file = StagedFile::create(target)?;
    file.write_all(content).map_err(MediaError::io(target, "write"))?;
    file.commit()
}

/// An unfinished folder. Dropping it removes it and its files; [`StagedFolder::commit`] gives it its name.
#[derive(Debug)]
pub(crate) struct StagedFolder {
    target: PathBuf,
    folder: TempDir,
    folders: MadeFolders,
}

impl StagedFolder {
    /// Creates an empty one next to `target`.
    pub(crate) fn create(target: &Path) -> Result<Self, MediaError> {
        let folders = MadeFolders::above(target)?;
        let prefix = beside(target);
        let folder = Builder::new()
            .prefix(&prefix)
            .suffix(PART)
            .tempdir_in(folder_of(target))
            .map_err(MediaError::io(target, "create a folder beside"))?;
        Ok(Self { target: target.to_owned(), folder, folders })
    }

    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// Creates a new file in the folder.
    pub(super) fn file(&self, name: &str) -> Result<BufWriter<File>, MediaError> {
        let path = self.folder.path().join(name);
        File::create(path).map(BufWriter::new).map_err(MediaError::io(&self.target, "create a file in"))
    }

    /// The temporary path of the folder.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Moves the files into the target folder, replacing files of the same names; `last` goes after all
    /// others, so that it refers to nothing that is not there yet.
    pub(crate) fn merge(self, last: &str) -> Result<(), MediaError> {
        let Self { target, folder, folders } = self;
        fs::create_dir_all(&target).map_err(MediaError::io(&target, "create the folder"))?;
        let read = |source| MediaError::io(&target, "put the finished files into")(source);
        let mut names: Vec<_> = fs::read_dir(folder.path())
            .and_then(|entries| entries.map(|entry| entry.map(|e| e.file_name())).collect())
            .map_err(read)?;
        names.sort_by_key(|name| name == last);
        for name in names {
            fs::rename(folder.path().join(&name), target.join(&name))
                .map_err(MediaError::io(&target, "put the finished files into"))?;
        }
        drop(folders);
        Ok(())
    }

    /// Moves the folder into place; the target must not exist or be an empty folder.
    pub(super) fn commit(self) -> Result<(), MediaError> {
        let Self { target, mut folder, folders } = self;
        if target.is_dir() {
            // A rename over an empty folder is an error on Windows.
            fs::remove_dir(&target).map_err(MediaError::io(&target, "replace the empty folder"))?;
        }
        fs::rename(folder.path(), &target)
            .map_err(MediaError::io(&target, "put the finished folder in place"))?;
        folder.disable_cleanup(true);
        drop(folders);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_at_commit_and_not_before() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("new/deep/a.bin");
        probe(&target).unwrap();
        assert_eq!(names(root.path()), [""; 0], "a probe leaves nothing");

        let mut staged = StagedFile::create(&target).unwrap();
        staged.write_all(b"first").unwrap();
        assert!(!target.exists());
        staged.commit().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"first");
        assert_eq!(names(&root.path().join("new/deep")), ["a.bin"]);

        let mut staged = StagedFile::create(&target).unwrap();
        staged.write_all(b"second").unwrap();
        assert_eq!(
            fs::read(&target).unwrap(),
            b"first",
            "the former file stays until the new one is complete"
        );
        staged.commit().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"second");
    }

    #[test]
    fn a_folder_appears_whole() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("frames");
        for already_there in [false, true] {
            let staged = StagedFolder::create(&target).unwrap();
            staged.file("0.png").unwrap().write_all(b"x").unwrap();
            assert_eq!(target.exists(), already_there);
            staged.commit().unwrap();
            assert_eq!(names(&target), ["0.png"]);
            assert_eq!(names(root.path()), ["frames"]);
            fs::remove_file(target.join("0.png")).unwrap();
        }
    }

    #[test]
    fn files_come_into_a_folder_beside_what_is_there() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("new/out");
        for (round, expected) in [("a", &["1", "last"][..]), ("b", &["1", "last", "mine"])] {
            let staged = StagedFolder::create(&target).unwrap();
            for name in ["last", "1"] {
                fs::write(staged.path().join(name), round).unwrap();
            }
            staged.merge("last").unwrap();
            assert_eq!(names(&target), expected);
            assert_eq!(fs::read_to_string(target.join("1")).unwrap(), round);
            fs::write(target.join("mine"), "mine").unwrap();
        }
        drop(StagedFolder::create(&target).unwrap());
        assert_eq!(names(&root.path().join("new")), ["out"]);
    }

    #[test]
    fn what_killed_processes_left_is_swept_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("a.mp4");
        let kept = [".a.mp4.b.mp4.x1y2z3.part", ".a.mp4.part", ".aa.mp4.x1y2z3.part", "a.mp4", "b.part"];
        for name in kept.iter().chain(&[".a.mp4.x1y2z3.part"]) {
            fs::write(root.path().join(name), b"x").unwrap();
        }
        let folder = root.path().join(".a.mp4.abcdef.part");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("0.png"), b"x").unwrap();
        sweep(&target).unwrap();
        assert_eq!(names(root.path()), kept);
    }

    #[cfg(unix)]
    #[test]
    fn a_finished_file_is_as_readable_as_any_other() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let (staged, plain) = (root.path().join("a"), root.path().join("b"));
        StagedFile::create(&staged).unwrap().commit().unwrap();
        fs::write(&plain, b"").unwrap();
        let mode = |path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(staged), mode(plain));
    }
}
