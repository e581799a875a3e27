//! Everything that a command writes, checked as a whole before the command does anything: no existing file is
//! replaced without permission, and nothing is written over what the same command reads or writes.

use std::{
    fmt, fs,
    path::{Component, Path, PathBuf},
};

use anyhow::Result;

use super::names::utf8;
use crate::{
    args::Writing,
    console::{bad_input, bad_input_with},
};

/// The kind of thing at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    /// A folder with everything in it.
    Folder,
}

/// A path and the argument it came from: `--out clip.mp4`.
#[derive(Clone, Debug)]
struct Named {
    what: String,
    path: PathBuf,
    kind: Kind,
    /// The writer itself checks what may already exist there.
    checked: bool,
}

/// The files and folders of one command.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writes {
    overwrite: bool,
    reads: Vec<Named>,
    targets: Vec<Named>,
    begun: Vec<PathBuf>,
}

impl Writes {
    pub(crate) fn new(writing: Writing) -> Self {
        Self { overwrite: writing.overwrite, ..Self::default() }
    }

    /// Adds a file that is read and must stay unchanged.
    pub(crate) fn reads(mut self, what: &str, path: Option<&Path>) -> Self {
        self.reads.extend(Named::new(what, path, Kind::File, false));
        self
    }

    /// Adds a file to be written.
    pub(crate) fn file(mut self, what: &str, path: Option<&Path>) -> Self {
        self.targets.extend(Named::new(what, path, Kind::File, false));
        self
    }

    /// Adds a file that may exist: its writer recognises its own.
    pub(crate) fn checked_file(mut self, what: &str, path: Option<&Path>) -> Self {
        self.targets.extend(Named::new(what, path, Kind::File, true));
        self
    }

    /// Adds a folder that receives several files.
    pub(crate) fn folder(mut self, what: &str, path: Option<&Path>) -> Self {
        self.targets.extend(Named::new(what, path, Kind::Folder, false));
        self
    }

    /// Adds a folder that may exist: its writer checks its contents.
    pub(crate) fn checked_folder(mut self, what: &str, path: Option<&Path>) -> Self {
        self.targets.extend(Named::new(what, path, Kind::Folder, true));
        self
    }

    /// Adds the paths that an earlier part of this same run was writing, as [`Writes::places`] gave them:
    /// they may exist.
    pub(crate) fn begun(mut self, places: &[PathBuf]) -> Self {
        self.begun.extend_from_slice(places);
        self
    }

    /// The absolute paths of everything written, independent of the working folder.
    pub(crate) fn places(&self) -> Vec<PathBuf> {
        self.targets.iter().map(Named::place).collect()
    }

    /// Errors: two of the paths are the same, a path is not UTF-8, something already exists.
    pub(crate) fn check(&self) -> Result<()> {
        for (i, target) in self.targets.iter().enumerate() {
            let Named { what, path, kind, .. } = target;
            utf8(what, path)?;
            if path.file_name().is_none() {
                let message = format!("{target} has no name of its own, so nothing can be put in its place");
                return Err(bad_input_with(message, "name a file, or a folder that is new"));
            }
            if path.is_dir() && *kind == Kind::File {
                return Err(bad_input(format!("{target} is a folder, a file is to be written there")));
            }
            if let Some(read) = self.reads.iter().find(|read| target.meets(read)) {
                let message = format!("{target} would be written over {read}, which is read");
                return Err(bad_input_with(message, "give each a name of its own"));
            }
            if let Some(other) = self.targets[..i].iter().find(|other| target.meets(other)) {
                let message = format!("{target} and {other} would be written over each other");
                let hint = "give each a name of its own, outside of the other's folder";
                return Err(bad_input_with(message, hint));
            }
        }
        let there =
            self.targets.iter().filter(|target| !self.overwrite && !target.checked && target.is_there());
        let there = there.filter(|target| !self.begun.contains(&target.place()));
        let there: Vec<String> = there.map(ToString::to_string).collect();
        let message = match there.as_slice() {
            [] => return Ok(()),
            [one] => format!("{one} exists already"),
            several => format!("{} exist already", several.join(", ")),
        };
        Err(bad_input_with(message, "choose another name, or replace what is there with --overwrite"))
    }
}

impl Named {
    fn new(what: &str, path: Option<&Path>, kind: Kind, checked: bool) -> Option<Self> {
        Some(Self { what: what.to_owned(), path: path?.to_owned(), kind, checked })
    }

    fn place(&self) -> PathBuf {
        place(&self.path)
    }

    /// True if writing here would replace something.
    fn is_there(&self) -> bool {
        match self.kind {
            Kind::File => fs::symlink_metadata(&self.path).is_ok(),
            Kind::Folder => fs::read_dir(&self.path).is_ok_and(|mut entries| entries.next().is_some()),
        }
    }

    /// True if the paths are equal or one lies inside the other.
    fn meets(&self, other: &Self) -> bool {
        let (own, others) = (self.place(), other.place());
        own == others
            || (self.kind == Kind::Folder && others.starts_with(&own))
            || (other.kind == Kind::Folder && own.starts_with(&others))
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.what, self.path.display())
    }
}

/// The canonical spelling of a path; links are followed as far as the path exists.
fn place(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut place = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                place.pop();
            }
            Component::CurDir => {}
            part => {
                place.push(part);
                if let Ok(real) = fs::canonicalize(&place) {
                    place = real;
                }
            }
        }
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writes() -> Writes {
        Writes::new(Writing::default())
    }

    fn refused(writes: &Writes, parts: &[&str]) {
        let text = writes.check().unwrap_err().to_string();
        for part in parts {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
    }

    #[test]
    fn paths_that_are_one_are_refused_however_they_are_spelled() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::write(at("s.png"), "").unwrap();
        fs::create_dir(at("sub")).unwrap();
        let over = |a: &str, b: &str| {
            let writing = Writing { overwrite: true };
            Writes::new(writing).reads("--image", Some(&at(a))).file("--out", Some(&at(b)))
        };
        refused(&over("s.png", "s.png"), &["--out", "written over --image", "which is read"]);
        refused(&over("s.png", "./sub/../s.png"), &["written over --image"]);
        refused(&over("new.png", "sub/../new.png"), &["written over --image"]);
        assert!(over("s.png", "t.png").check().is_ok());
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(at("s.png"), at("link.png")).unwrap();
            refused(&over("s.png", "link.png"), &["written over --image"]);
            std::os::unix::fs::symlink(at("sub"), at("other")).unwrap();
            let two = writes().file("--out", Some(&at("sub/a"))).file("--trace", Some(&at("other/a")));
            refused(&two, &["--trace", "and --out", "over each other"]);
        }
        let inside = |file: &str| {
            writes().checked_folder("--out", Some(&at("frames"))).file("--trace", Some(&at(file)))
        };
        refused(&inside("frames/t.jsonl"), &["over each other"]);
        assert!(inside("frames-t.jsonl").check().is_ok());
    }

    #[test]
    fn what_is_there_is_named_all_at_once_and_replaced_only_when_asked_for() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let both = |writing| {
            let writes = Writes::new(writing).file("--out", Some(&at("a"))).file("--plot", None);
            writes.folder("--folder", Some(&at("b")))
        };
        let plain = both(Writing::default());
        assert!(plain.check().is_ok());
        fs::create_dir(at("b")).unwrap();
        assert!(plain.check().is_ok(), "an empty folder holds nothing that could be lost");
        fs::write(at("a"), "").unwrap();
        refused(&plain, &["--out", "a exists already"]);
        fs::write(at("b/mine"), "").unwrap();
        refused(&plain, &["a, --folder", "b exist already"]);
        assert!(both(Writing { overwrite: true }).check().is_ok());
        assert!(both(Writing::default()).begun(&plain.places()).check().is_ok());
        refused(&writes().file("--out", Some(&at("b"))), &["is a folder, a file is to be written there"]);
        assert!(writes().checked_file("--out", Some(&at("a"))).check().is_ok());
    }

    #[cfg(unix)]
    #[test]
    fn a_name_that_no_document_can_hold_is_refused() {
        use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
        let name = Path::new(OsStr::from_bytes(b"a\xff.mp4"));
        refused(&writes().file("--out", Some(name)), &["--out", "is not UTF-8"]);
    }
}
