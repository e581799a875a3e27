//! What CONTRIBUTING and the documents say of the repository: short files, comments that fit, names that
//! exist, and licences.

mod documents;
mod licences;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The Rust files of the workspace, without what a build leaves.
fn sources(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

fn texts() -> Vec<(PathBuf, String)> {
    let mut paths = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), &mut paths);
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        (path, text)
    };
    paths.into_iter().map(read).collect()
}

#[test]
fn files_are_short() {
    let mut lengths: Vec<(usize, PathBuf)> =
        texts().into_iter().map(|(path, text)| (text.lines().count(), path)).collect();
    lengths.sort();
    let (longest, path) = lengths.last().unwrap();
    assert!(*longest <= 500, "{} has {longest} lines", path.display());
    let median = lengths[lengths.len() / 2].0;
    assert!(median <= 130, "half of the files have more than {median} lines");
    assert!(lengths.len() > 400, "only {} files were found", lengths.len());
}

#[test]
fn comments_fit_into_110_columns() {
    for (path, text) in texts() {
        for (i, line) in text.lines().enumerate().filter(|(_, line)| line.trim_start().starts_with("//")) {
            let columns = line.chars().count();
            assert!(columns <= 110, "{}:{} has {columns} columns", path.display(), i + 1);
        }
    }
}
