//! What is in the cache.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use crate::{HubError, Name};

/// What folders of models in the cache begin with.
const MODELS: &str = "models--";

/// A model in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downloaded {
    /// `OWNER/NAME`.
    pub repo: String,
    /// Its branches and tags.
    pub revisions: Vec<String>,
    /// What its blobs take.
    pub bytes: u64,
    /// Its folder.
    pub path: PathBuf,
}

/// The folder of a model in the cache.
pub(crate) fn folder(cache: &Path, repo: &str) -> PathBuf {
    cache.join(format!("{MODELS}{}", repo.replace('/', "--")))
}

/// The snapshot of a revision: by its branch or tag, or of a commit itself.
pub(crate) fn snapshot(cache: &Path, name: &Name) -> Option<PathBuf> {
    let commit = commit(cache, name)?;
    Some(folder(cache, &name.repo).join("snapshots").join(commit))
}

/// The commit of a revision that there is a snapshot of.
pub(crate) fn commit(cache: &Path, name: &Name) -> Option<String> {
    let folder = folder(cache, &name.repo);
    let commit = fs::read_to_string(folder.join("refs").join(&name.revision));
    let commit = commit.map_or_else(|_| name.revision.clone(), |commit| commit.trim().to_owned());
    folder.join("snapshots").join(&commit).is_dir().then_some(commit)
}

/// Paths of the files below `root`, relative to it, with `/` between the parts.
pub(crate) fn files(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if let (true, Ok(own)) = (path.is_file(), path.strip_prefix(root)) {
                let parts: Vec<_> = own.iter().map(|part| part.to_string_lossy()).collect();
                found.push(parts.join("/"));
            }
        }
    }
    found.sort();
    found
}

/// Every model in the cache, by name.
pub fn downloaded(cache: &Path) -> Vec<Downloaded> {
    let entries = fs::read_dir(cache).into_iter().flatten().flatten();
    let mut all: Vec<Downloaded> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let repo = name.strip_prefix(MODELS)?.replacen("--", "/", 1);
            let path = entry.path();
            let blobs = fs::read_dir(path.join("blobs")).into_iter().flatten().flatten();
            let bytes = blobs.filter_map(|blob| blob.metadata().ok()).map(|about| about.len()).sum();
            Some(Downloaded { repo, revisions: files(&path.join("refs")), bytes, path })
        })
        .collect();
    all.sort_by(|a, b| a.repo.cmp(&b.repo));
    all
}

/// Removes a model from the cache, with all its revisions; whether it was there.
///
/// # Errors
/// Files that cannot be removed.
pub fn remove(cache: &Path, name: &Name) -> Result<bool, HubError> {
    let path = folder(cache, &name.repo);
    match fs::remove_dir_all(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(HubError::Io { path, source }),
    }
}

/// Files that an index of shards in `root` lists and that are not there, and weights whose index lacks.
pub(crate) fn lacks_shards(root: &Path, there: &[String]) -> bool {
    let known: BTreeSet<&str> = there.iter().map(String::as_str).collect();
    there.iter().filter(|path| path.ends_with(".index.json")).any(|index| {
        let folder = index.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
        let text = fs::read_to_string(root.join(index)).unwrap_or_default();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let shards =
            json["weight_map"].as_object().into_iter().flatten().filter_map(|(_, file)| file.as_str());
        shards.into_iter().any(|shard| !known.contains(format!("{folder}{shard}").as_str()))
    })
}
