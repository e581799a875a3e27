//! The program, as its tests start it.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

pub(crate) fn magcache(args: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_magcache")).args(args).current_dir(folder).output().unwrap()
}

/// What a run that succeeds says with `--json`.
#[track_caller]
pub(crate) fn answer(args: &[&str], folder: &Path) -> Value {
    let out = magcache(&[args, &["--json"]].concat(), folder);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// Bad input: exit code 2, this in the message, no file but those that were there.
#[track_caller]
pub(crate) fn refused(args: &[&str], folder: &Path, expected: &[&str]) {
    let count = || fs::read_dir(folder).unwrap().count();
    let before = count();
    let out = magcache(args, folder);
    let message = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(2), "{args:?}: {message}");
    for part in expected {
        assert!(message.contains(part), "{args:?}: no {part:?} in {message}");
    }
    assert_eq!(before, count(), "{args:?} wrote something");
}
