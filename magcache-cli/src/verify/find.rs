//! Finds the cases that the arguments name.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use serde_json::Value;

use crate::console::{bad_input, bad_input_with};

/// Something that can be verified.
#[derive(Debug)]
pub(super) enum Found {
    /// A folder with a `case.json`.
    Case(PathBuf),
    /// A JSON file with rows of decisions or counts.
    Table(PathBuf, Value),
}

impl Found {
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Case(path) | Self::Table(path, _) => path,
        }
    }
}

/// Every case that the arguments name, each once, in order.
///
/// Errors: an argument that matches no case.
pub(super) fn find(arguments: &[PathBuf]) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for argument in arguments {
        let before = found.len();
        if argument.exists() || !argument.to_string_lossy().contains('*') {
            collect(argument, true, &mut found)?;
        } else {
            for path in expand(argument)? {
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
    found.retain(|source: &Found| seen.insert(source.path().canonicalize().unwrap_or_default()));
    Ok(found)
}

fn collect(path: &Path, named: bool, found: &mut Vec<Found>) -> Result<()> {
    if path.is_dir() {
        if path.join("case.json").exists() {
            found.push(Found::Case(path.to_owned()));
            return Ok(());
        }
        for entry in entries(path)? {
            // A link could lead back here.
            if !entry.is_symlink() {
                collect(&entry, false, found)?;
            }
        }
    } else if path.file_name().is_some_and(|name| name == "case.json") {
        found.push(Found::Case(path.parent().unwrap_or(Path::new(".")).to_owned()));
    } else if named || path.extension().is_some_and(|ext| ext == "json") {
        let text = fs::read_to_string(path)
            .map_err(|e| bad_input(format!("cannot read {}: {e}", path.display())))?;
        let json: Value = serde_json::from_str(&text)
            .map_err(|e| bad_input(format!("{} is not JSON: {e}", path.display())))?;
        if ["rows", "climbs"].iter().any(|key| json.get(key).is_some_and(Value::is_array)) {
            found.push(Found::Table(path.to_owned(), json));
        }
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = |e| bad_input(format!("cannot read {}: {e}", folder.display()));
    let entries = fs::read_dir(folder).map_err(unreadable)?;
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| Ok(entry.map_err(unreadable)?.path())).collect::<Result<_>>()?;
    paths.sort();
    Ok(paths)
}

/// The existing paths that match a pattern, in order: `*` matches any part of a single name.
fn expand(pattern: &Path) -> Result<Vec<PathBuf>> {
    let paths = glob::glob(&pattern.to_string_lossy());
    let paths = paths.map_err(|e| bad_input(format!("{} is not a pattern: {e}", pattern.display())))?;
    // A folder that cannot be read matches nothing.
    Ok(paths.filter_map(Result::ok).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(names(&["*/t*e"]), ["b/three"].map(PathBuf::from));
        assert_eq!(names(&["a/t*", "a", "a/two/case.json"]), ["a/two", "a/one"].map(PathBuf::from));
        for missing in ["c", "c/*", "b/manifest.json"] {
            assert!(find(&[at(missing)]).is_err(), "{missing}");
        }
        fs::write(at("b/table.json"), "{").unwrap();
        assert!(find(&[at("b")]).unwrap_err().to_string().contains("table.json is not JSON"));
    }
}
