//! From what was typed to the cases that it means.

use std::{
    collections::HashSet,
    fs,
    path::{Component, Path, PathBuf},
};

use anyhow::Result;
use serde_json::Value;

use crate::console::{bad_input, bad_input_with};

/// Something that can be verified.
#[derive(Debug)]
pub(super) enum Source {
    /// A folder with `case.json`.
    Case(PathBuf),
    /// A JSON file with rows of decisions or of counts.
    Table(PathBuf, Value),
}

impl Source {
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Case(path) | Self::Table(path, _) => path,
        }
    }
}

/// Every case that the arguments mean, each once, in order.
///
/// Errors: an argument that means none.
pub(super) fn find(arguments: &[PathBuf]) -> Result<Vec<Source>> {
    let mut found = Vec::new();
    for argument in arguments {
        let before = found.len();
        if argument.exists() || !is_pattern(argument) {
            collect(argument, true, &mut found)?;
        } else {
            for path in expand(argument) {
                collect(&path, false, &mut found)?;
            }
        }
        if found.len() == before {
            let message = format!("no reference case at {}", argument.display());
            return Err(bad_input_with(
                message,
                "a case is a folder with case.json, or a JSON file with `rows`",
            ));
        }
    }
    let mut seen = HashSet::new();
    found.retain(|source: &Source| seen.insert(source.path().canonicalize().unwrap_or_default()));
    Ok(found)
}

fn collect(path: &Path, named: bool, found: &mut Vec<Source>) -> Result<()> {
    if path.is_dir() {
        if path.join("case.json").exists() {
            found.push(Source::Case(path.to_owned()));
            return Ok(());
        }
        for entry in entries(path)? {
            // A link may lead back here.
            if !entry.is_symlink() {
                collect(&entry, false, found)?;
            }
        }
    } else if path.file_name().is_some_and(|name| name == "case.json") {
        found.push(Source::Case(path.parent().unwrap_or(Path::new(".")).to_owned()));
    } else if named || path.extension().is_some_and(|ext| ext == "json") {
        let text = fs::read_to_string(path)
            .map_err(|e| bad_input(format!("cannot read {}: {e}", path.display())))?;
        let json: Value = serde_json::from_str(&text)
            .map_err(|e| bad_input(format!("{} is not JSON: {e}", path.display())))?;
        if json.get("rows").is_some_and(Value::is_array) {
            found.push(Source::Table(path.to_owned(), json));
        }
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = |e| bad_input(format!("cannot read {}: {e}", folder.display()));
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        paths.push(entry.map_err(unreadable)?.path());
    }
    paths.sort();
    Ok(paths)
}

fn is_pattern(path: &Path) -> bool {
    path.to_string_lossy().contains('*')
}

/// The existing paths that a pattern matches; `*` stands for any part of one name.
fn expand(pattern: &Path) -> Vec<PathBuf> {
    let mut paths = vec![PathBuf::new()];
    for component in pattern.components() {
        paths = match component {
            Component::Normal(name) if name.to_string_lossy().contains('*') => {
                let name = name.to_string_lossy();
                let within = |folder: PathBuf| {
                    let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
                    let matching = |path: &PathBuf| {
                        path.file_name().is_some_and(|file| matches(&name, &file.to_string_lossy()))
                    };
                    // A name that is no folder has nothing below it.
                    entries(&folder).unwrap_or_default().into_iter().filter(matching).collect::<Vec<_>>()
                };
                paths.into_iter().flat_map(within).collect()
            }
            other => paths.into_iter().map(|path| path.join(other)).filter(|path| path.exists()).collect(),
        };
    }
    paths
}

/// Whether `name` is what comes out when every `*` of `pattern` is replaced by something.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|tail| {
            tail.char_indices().map(|(i, _)| i).chain([tail.len()]).any(|i| matches(rest, &tail[i..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_part_of_a_name() {
        for (pattern, name, is) in [
            ("wan*", "wan21_t2v", true),
            ("*_t2v", "wan21_t2v", true),
            ("w*2*v", "wan21_t2v", true),
            ("*", "", true),
            ("wan*x", "wan21_t2v", false),
            ("wan", "wan21", false),
            ("é*", "éa", true),
        ] {
            assert_eq!(matches(pattern, name), is, "{pattern} {name}");
        }
    }

    #[test]
    fn folders_patterns_and_files_lead_to_the_same_cases() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        for case in ["a/one", "a/two", "b/three"] {
            fs::create_dir_all(at(case)).unwrap();
            fs::write(at(case).join("case.json"), "{}").unwrap();
        }
        fs::write(at("b/table.json"), r#"{"rows": []}"#).unwrap();
        fs::write(at("b/manifest.json"), "{}").unwrap();
        let names = |arguments: &[&str]| -> Vec<PathBuf> {
            let arguments: Vec<_> = arguments.iter().map(|a| at(a)).collect();
            let found = find(&arguments).unwrap();
            found.iter().map(|s| s.path().strip_prefix(root.path()).unwrap().to_owned()).collect()
        };
        let all = ["a/one", "a/two", "b/table.json", "b/three"].map(PathBuf::from);
        assert_eq!(names(&["."]).len(), all.len());
        assert_eq!(names(&["*"]), all);
        assert_eq!(names(&["*/*"]), all);
        assert_eq!(names(&["a/t*", "a", "a/two/case.json"]), ["a/two", "a/one"].map(PathBuf::from));
        for missing in ["c", "c/*", "b/manifest.json"] {
            assert!(find(&[at(missing)]).is_err(), "{missing}");
        }
        fs::write(at("b/table.json"), "{").unwrap();
        assert!(find(&[at("b")]).unwrap_err().to_string().contains("table.json is not JSON"));
    }
}
