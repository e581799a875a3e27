//! Scores that are known, in memory and in a file: an interrupted search goes on with them.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use magcache_core::planner::{Continuation, Skipped};
use serde::{Deserialize, Serialize};

use crate::{calibration::Conditions, console::bad_input_with};

/// Scores by continuation, schedule and run.
#[derive(Debug, Default)]
pub(super) struct Memo {
    known: BTreeMap<(Continuation, Skipped, usize), f64>,
    file: Option<(PathBuf, File)>,
}

/// The first line of the file.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Header {
    /// What all scores depend on.
    search: String,
}

/// Every other line.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    with: Continuation,
    skip: Skipped,
    run: usize,
    psnr: f64,
}

/// Where scores are kept between a search and its continuation.
#[derive(Debug)]
pub(crate) struct Kept {
    path: PathBuf,
    header: Header,
}

impl Kept {
    /// The file beside `profile`, for scores that depend on `conditions`.
    pub(crate) fn new(profile: &Path, conditions: &Conditions) -> Result<Self> {
        let mut conditions = conditions.table()?;
        for own in ["date", "version"] {
            conditions.remove(own);
        }
        let header = Header { search: toml::to_string(&conditions)? };
        Ok(Self { path: profile.with_extension("search.jsonl"), header })
    }

    /// Whether a search was interrupted there.
    ///
    /// Errors: it was a search under other conditions, or the file is none of a search.
    pub(crate) fn is_begun(&self) -> Result<bool> {
        Ok(self.lines()?.is_some())
    }

    /// The lines below the header; `None` if there is no file.
    fn lines(&self) -> Result<Option<Vec<Line>>> {
        let Self { path, header } = self;
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut lines = text.lines();
        let first = lines.next().and_then(|line| serde_json::from_str::<Header>(line).ok());
        if first.as_ref() != Some(header) {
            let message = format!("{} holds the scores of another search", path.display());
            return Err(bad_input_with(message, "remove it, or choose another --out"));
        }
        // The last line of a process that was killed may be cut.
        Ok(Some(lines.map_while(|line| serde_json::from_str(line).ok()).collect()))
    }

    /// The scores that are known; others are added to the file, which is made if it does not exist.
    pub(super) fn open(&self) -> Result<Memo> {
        let path = &self.path;
        let known = self.lines()?.unwrap_or_default().into_iter();
        let known: BTreeMap<_, _> =
            known.map(|Line { with, skip, run, psnr }| ((with, skip, run), psnr)).collect();
        let mut content = serde_json::to_string(&self.header)? + "\n";
        for (key, psnr) in &known {
            content += &line(key, *psnr)?;
        }
        crate::media::write_file(path, content.as_bytes())?;
        let file = OpenOptions::new().append(true).open(path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Memo { known, file: Some((path.clone(), file)) })
    }
}

impl Memo {
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn get(&self, with: Continuation, skip: &Skipped, run: usize) -> Option<f64> {
        self.known.get(&(with, skip.clone(), run)).copied()
    }

    pub(super) fn add(
        &mut self,
        with: Continuation,
        run: usize,
        scores: impl Iterator<Item = (Skipped, f64)>,
    ) -> Result<()> {
        let mut text = String::new();
        for (skip, psnr) in scores {
            let key = (with, skip, run);
            text += &line(&key, psnr)?;
            self.known.insert(key, psnr);
        }
        if let Some((path, file)) = &mut self.file {
            file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// Removes the file: the search has ended.
    pub(super) fn finish(self) -> Result<()> {
        let Some((path, file)) = self.file else { return Ok(()) };
        drop(file);
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }
}

fn line((with, skip, run): &(Continuation, Skipped, usize), psnr: f64) -> Result<String> {
    let line = Line { with: *with, skip: skip.clone(), run: *run, psnr };
    Ok(serde_json::to_string(&line)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(folder: &Path, search: &str) -> Kept {
        Kept { path: folder.join("p.search.jsonl"), header: Header { search: search.to_owned() } }
    }

    #[test]
    fn scores_outlive_the_process_and_a_line_that_was_cut() {
        let folder = tempfile::tempdir().unwrap();
        let here = kept(folder.path(), "steps = 12");
        assert!(!here.is_begun().unwrap());
        let mut memo = here.open().unwrap();
        assert!(here.is_begun().unwrap() && memo.len() == 0);
        let skips = [vec![2, 4], vec![3, 4]];
        memo.add(Continuation::Line, 5, skips.iter().cloned().zip([31.25, 1.0 / 3.0])).unwrap();
        drop(memo);
        let text = fs::read_to_string(&here.path).unwrap();
        fs::write(&here.path, format!("{text}{{\"with\":\"line\",\"ski")).unwrap();

        let mut memo = here.open().unwrap();
        assert_eq!(memo.len(), 2);
        assert_eq!(memo.get(Continuation::Line, &skips[1], 5), Some(1.0 / 3.0));
        assert_eq!(memo.get(Continuation::Residual, &skips[1], 5), None);
        assert_eq!(memo.get(Continuation::Line, &skips[1], 4), None);
        memo.add(Continuation::Residual, 0, std::iter::once((vec![1], 2.0))).unwrap();
        let memo = here.open().unwrap();
        assert_eq!(memo.len(), 3, "what follows a line that was cut is read");
        memo.finish().unwrap();
        assert!(!here.path.exists());
    }

    #[test]
    fn the_scores_of_another_search_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        drop(kept(folder.path(), "steps = 12").open().unwrap());
        let other = kept(folder.path(), "steps = 13");
        for refused in [other.is_begun().unwrap_err(), other.open().unwrap_err()] {
            assert!(refused.to_string().contains("another search"), "{refused}");
        }
        fs::write(&other.path, "a file of the user's").unwrap();
        assert!(other.open().is_err());
        assert_eq!(fs::read_to_string(&other.path).unwrap(), "a file of the user's");
    }
}
