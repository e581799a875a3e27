//! Names of the files that a command writes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;

use crate::{args::Writing, console::bad_input_with};

/// A default name: `magcache.mp4`, or the first unused one of `magcache-2.mp4`, `magcache-3.mp4`. `with`
/// returns the files written along with it, which must be unused too.
pub(crate) fn unused(default: &str, writing: Writing, with: &dyn Fn(&Path) -> Vec<PathBuf>) -> PathBuf {
    let first = PathBuf::from(default);
    let taken = |path: &Path| {
        let there = |path: &Path| fs::symlink_metadata(path).is_ok();
        there(path) || with(path).iter().any(|other| there(other))
    };
    if writing.overwrite || !taken(&first) {
        return first;
    }
    let stem = first.file_stem().unwrap_or_default().to_string_lossy();
    let ending = first.extension().map_or(String::new(), |ending| format!(".{}", ending.to_string_lossy()));
    let numbered = (2u64..).map(|n| first.with_file_name(format!("{stem}-{n}{ending}")));
    numbered.into_iter().find(|path| !taken(path)).unwrap_or_else(|| first.clone())
}

/// The resolved configuration of a result: `cat.mp4.toml` next to `cat.mp4`. It keeps the whole name, so that
/// it collides neither with results of the same stem nor with configurations written by hand.
pub(crate) fn config_of(result: &Path) -> PathBuf {
    let mut name = result.components().as_path().as_os_str().to_owned();
    name.push(".toml");
    name.into()
}

/// The folder of a result.
pub(crate) fn folder_of(result: &Path) -> &Path {
    result.parent().unwrap_or(Path::new(""))
}

/// The lines that tell which files were written.
pub(crate) fn wrote(outputs: &[PathBuf]) -> String {
    outputs.iter().map(|output| format!("wrote {}\n", output.display())).collect()
}

/// True if the file exists and has exactly this content.
pub(crate) fn has_content(path: &Path, text: &str) -> bool {
    fs::read(path).is_ok_and(|there| there == text.as_bytes())
}

/// Errors: the path is not UTF-8, so neither a configuration nor JSON could hold it.
pub(crate) fn utf8(what: &str, path: &Path) -> Result<()> {
    if path.to_str().is_some() {
        return Ok(());
    }
    let message =
        format!("{what} {} is not UTF-8: neither a configuration nor --json can name it", path.display());
    Err(bad_input_with(message, "rename it, or write into a folder whose name is UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_name_is_the_first_free_one() {
        let root = tempfile::tempdir().unwrap();
        let name = |n: &str| root.path().join(n).to_str().unwrap().to_owned();
        let beside = |path: &Path| vec![path.with_extension("toml")];
        let found = |writing| unused(&name("m.mp4"), writing, &beside);
        assert_eq!(found(Writing::default()), PathBuf::from(name("m.mp4")));
        fs::write(name("m.toml"), "").unwrap();
        // The numbered name is in the folder of the default one.
        assert_eq!(found(Writing::default()), PathBuf::from(name("m-2.mp4")));
        fs::write(name("m-2.mp4"), "").unwrap();
        assert_eq!(found(Writing::default()), PathBuf::from(name("m-3.mp4")));
        assert_eq!(found(Writing { overwrite: true }), PathBuf::from(name("m.mp4")));
    }
}
