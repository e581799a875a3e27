//! The program, run in a folder of its own.
#![allow(dead_code, reason = "every test target uses its own part")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
};

use serde_json::Value;
use tempfile::TempDir;

/// The program that was just built: the command line, or the one that has plug-ins.
const PROGRAM: Option<&str> = match option_env!("CARGO_BIN_EXE_magcache") {
    None => option_env!("CARGO_BIN_EXE_magcache-own"),
    own => own,
};

/// How the first line of a backtrace begins.
pub(crate) const BACKTRACE: &str = "   0: ";

/// A temporary folder in which command lines are run; they are split as a shell does.
#[derive(Clone)]
pub(crate) struct Shell {
    /// Removed with the last shell that uses it.
    own: Arc<TempDir>,
    at: PathBuf,
}

impl Shell {
    pub(crate) fn new() -> Self {
        let own = tempfile::tempdir().unwrap();
        Self { at: own.path().to_owned(), own: Arc::new(own) }
    }

    /// A new folder inside this one.
    pub(crate) fn inside(&self, name: &str) -> Self {
        let at = self.path(name);
        fs::create_dir(&at).unwrap();
        Self { own: Arc::clone(&self.own), at }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub(crate) fn text(&self, name: &str) -> String {
        String::from_utf8(self.bytes(name)).unwrap()
    }

    /// Whether two files have the same bytes.
    pub(crate) fn same(&self, a: &str, b: &str) -> bool {
        self.bytes(a) == self.bytes(b)
    }

    /// The lines of a trace.
    pub(crate) fn trace(&self, name: &str) -> Vec<Value> {
        self.text(name).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Every file and folder below the folder, by its name there; files with their bytes.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let name = |path: &PathBuf| path.strip_prefix(&self.at).unwrap().to_owned();
        below(&self.at).iter().map(|path| (name(path), fs::read(path).unwrap_or_default())).collect()
    }

    /// How many files and folders lie in the folder itself.
    pub(crate) fn count(&self) -> usize {
        fs::read_dir(&self.at).unwrap().count()
    }

    pub(crate) fn command(&self, line: impl AsRef<str>) -> Command {
        let mut command = Command::new(PROGRAM.expect("cargo sets it"));
        command.args(shlex::split(line.as_ref()).expect("quotes are closed")).current_dir(&self.at);
        // A message to a user has no backtrace, even if one is asked for.
        command.env("RUST_BACKTRACE", "1");
        command
    }

    pub(crate) fn run(&self, line: impl AsRef<str>) -> Output {
        self.command(line).output().unwrap()
    }

    /// Standard output and error output of a successful run.
    #[track_caller]
    pub(crate) fn said(&self, line: impl AsRef<str>) -> [String; 2] {
        let out = self.run(&line);
        let [said, told] = [out.stdout, out.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert!(out.status.success(), "{}: {told}", line.as_ref());
        [said, told]
    }

    /// The `--json` document of a run that ends with this exit code.
    #[track_caller]
    pub(crate) fn document(&self, line: impl AsRef<str>, code: i32) -> Value {
        let line = format!("{} --json", line.as_ref());
        let out = self.run(&line);
        assert_eq!(out.status.code(), Some(code), "{line}: {}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    }

    /// The `--json` document of a successful run.
    #[track_caller]
    pub(crate) fn answer(&self, line: impl AsRef<str>) -> Value {
        self.document(line, 0)
    }

    /// Asserts that the input is refused: exit code 2, these words in the message, nothing written.
    #[track_caller]
    pub(crate) fn refused<'a>(&self, line: impl AsRef<str>, expected: impl IntoIterator<Item = &'a str>) {
        let (line, before) = (line.as_ref(), self.files());
        let out = self.run(line);
        let message = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(2), "{line}: {message}");
        assert!(message.starts_with("error: ") || message.contains("\nerror: "), "{message}");
        assert!(!message.contains("panicked") && !message.contains(BACKTRACE), "{message}");
        for part in expected {
            assert!(message.contains(part), "{line}: no {part:?} in {message}");
        }
        assert!(before == self.files(), "{line} wrote something");
    }

    /// Refused, with a hint.
    #[track_caller]
    pub(crate) fn hinted<'a>(&self, line: impl AsRef<str>, expected: impl IntoIterator<Item = &'a str>) {
        self.refused(line, expected.into_iter().chain(["\nhint: "]));
    }
}

/// All files and folders below a folder, each folder before what is in it.
fn below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let with =
        |path: PathBuf| if path.is_dir() { [vec![path.clone()], below(&path)].concat() } else { vec![path] };
    entries.flat_map(with).collect()
}

/// Copies a folder, so that a test may change it.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for path in below(from) {
        let copy = to.join(path.strip_prefix(from).unwrap());
        if path.is_dir() {
            fs::create_dir_all(copy).unwrap();
        } else {
            fs::copy(path, copy).unwrap();
        }
    }
}

/// The folder of an embedded model.
pub(crate) fn tiny(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../magcache-models/tiny").join(model)
}

/// A file or folder of the recorded test data.
pub(crate) fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(path)
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list"))
}

/// The steps that a branch skips.
pub(crate) fn skipped(answer: &Value, branch: &str) -> Vec<u64> {
    list(&answer["skipped"][branch]).iter().map(|step| step.as_u64().unwrap()).collect()
}
