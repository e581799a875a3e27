//! Helpers to run the program in tests.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

pub(crate) fn magcache(args: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_magcache")).args(args).current_dir(folder).output().unwrap()
}

/// The `--json` document of a successful run.
#[track_caller]
pub(crate) fn answer(args: &[&str], folder: &Path) -> Value {
    let out = magcache(&[args, &["--json"]].concat(), folder);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// All files below a folder.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Copies a folder, so that a test may change it.
pub(crate) fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let copy = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(file, copy).unwrap();
    }
}

/// The folder of an embedded model.
pub(crate) fn tiny(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../magcache-models/tiny").join(model)
}

/// Asserts that the input is refused: exit code 2, these words in the message, nothing written.
#[track_caller]
pub(crate) fn refused(args: &[&str], folder: &Path, expected: &[&str]) {
    let before = files(folder);
    let out = magcache(args, folder);
    let message = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(2), "{args:?}: {message}");
    assert!(message.starts_with("error: ") || message.contains("\nerror: "), "{message}");
    assert!(!message.contains("panicked"), "{message}");
    for part in expected {
        assert!(message.contains(part), "{args:?}: no {part:?} in {message}");
    }
    assert_eq!(before, files(folder), "{args:?} wrote something");
}
