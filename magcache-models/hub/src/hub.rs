//! From a name to a folder.

use std::{
    collections::VecDeque,
    env, fs,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use hf_hub::{
    Cache, Repo, RepoType,
    api::sync::{Api, ApiBuilder},
};

use crate::{
    HubError, Name, Part,
    choice::{self, Kind},
    listing::{Listing, RepoFile},
    local,
    transfer::{self, Client},
};

/// Files that are downloaded at once.
const AT_ONCE: usize = 4;

/// Is told how many bytes of how many have come.
pub type Progress<'a> = dyn Fn(u64, u64) + Sync + 'a;

/// The hub and the cache of this machine.
#[derive(Debug, Clone)]
pub struct Hub {
    cache: PathBuf,
    endpoint: String,
    token: Option<String>,
    offline: bool,
}

/// A model in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// A folder that is the model.
    Folder(PathBuf),
    /// A file with its transformer or the one that was wanted, or two of experts, the one for high noise
    /// first.
    Files(Vec<PathBuf>),
}

/// Counts bytes of all files together.
pub(crate) struct Counter<'a> {
    done: AtomicU64,
    total: u64,
    tell: &'a Progress<'a>,
}

impl Counter<'_> {
    pub(crate) fn add(&self, bytes: u64) {
        let before = self.done.fetch_add(bytes, Ordering::Relaxed);
        (self.tell)((before + bytes).min(self.total), self.total);
    }
}

impl Hub {
    /// As the environment says: `HF_HUB_CACHE` or `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` (or the token that the
    /// hub's own client stored), `HF_HUB_OFFLINE`.
    pub fn from_env() -> Self {
        let text = |key: &str| env::var(key).ok().filter(|value| !value.is_empty());
        let home = Cache::from_env();
        let cache = text("HF_HUB_CACHE").or_else(|| text("HUGGINGFACE_HUB_CACHE")).map(PathBuf::from);
        let set = |key: &str| {
            text(key).is_some_and(|value| {
                !["0", "false", "no", "off"].contains(&value.to_ascii_lowercase().as_str())
            })
        };
        Self {
            cache: cache.unwrap_or_else(|| home.path().clone()),
            endpoint: text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned()),
            token: text("HF_TOKEN").or_else(|| home.token()),
            offline: set("HF_HUB_OFFLINE"),
        }
    }

    /// With a cache and an address of one's own.
    pub fn new(cache: PathBuf, endpoint: String, token: Option<String>, offline: bool) -> Self {
        Self { cache, endpoint, token, offline }
    }

    /// The folder of the cache.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// The model in the cache, if all that a run needs is there; asks nobody.
    pub fn local(&self, name: &Name) -> Option<Fetched> {
        let root = local::snapshot(&self.cache, name)?;
        let there = local::files(&root);
        let listed: Vec<RepoFile> = there.iter().filter_map(|path| RepoFile::at(path)).collect();
        let (kind, chosen) = choice::chosen(name, &listed).ok()?;
        // A file that is there is whole; whether it is the only one, only a whole listing says.
        let named = name.variant.is_some() || name.part == Part::Tokenizer;
        let some = root.join(PARTIAL).exists() && !named;
        let under_way = root.join(INCOMPLETE).exists() && name.part == Part::Model;
        let part_of_model = kind == Kind::Folder && name.part == Part::Model;
        let lacks = part_of_model && (root.join(PARTIAL).exists() || local::lacks_shards(&root, &there));
        (!some && !under_way && !lacks).then(|| fetched(kind, &root, &chosen))
    }

    /// The model, downloaded as far as it is not in the cache.
    ///
    /// # Errors
    /// See [`HubError`].
    pub fn fetch(&self, name: &Name, tell: &Progress<'_>) -> Result<Fetched, HubError> {
        match self.local(name) {
            Some(found) => Ok(found),
            None => self.pull(name, tell),
        }
    }

    /// The model as the hub has it now.
    ///
    /// # Errors
    /// See [`HubError`].
    pub fn pull(&self, name: &Name, tell: &Progress<'_>) -> Result<Fetched, HubError> {
        if self.offline {
            return Err(HubError::Offline { name: name.to_string(), cache: self.cache.clone() });
        }
        let (api, client) = (self.api()?, Client::new(self.token.clone()));
        // Some files beside those that are there are of the same commit.
        let at = match (name.part, local::commit(&self.cache, name)) {
            (Part::Model, _) | (_, None) => name.clone(),
            (_, Some(commit)) => Name { revision: commit, ..name.clone() },
        };
        let listing = self.listing(&api, &at)?;
        let (kind, chosen) = choice::chosen(name, &listing.siblings)?;
        let folder = local::folder(&self.cache, &name.repo);
        let root = folder.join("snapshots").join(&listing.sha);
        let blob = |file: &RepoFile| {
            let own = format!("{}-{}", listing.sha, file.path.replace('/', "-"));
            folder.join("blobs").join(file.checksum().map_or(own, |sum| sum.text().to_owned()))
        };
        let missing: Vec<&RepoFile> =
            chosen.iter().copied().filter(|file| !root.join(&file.path).exists()).collect();
        self.check_space(name, missing.iter().filter(|file| !blob(file).exists()).copied())?;
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| HubError::Io { path: path.clone(), source }
        };
        let is_new = !root.exists();
        fs::create_dir_all(&root).map_err(io(&root))?;
        // Whoever finds these knows that files may be missing.
        let (mark, partial) = (root.join(INCOMPLETE), root.join(PARTIAL));
        let is_whole = name.part == Part::Model && (kind == Kind::Folder || name.variant.is_none());
        if is_new && !is_whole {
            fs::write(&partial, "").map_err(io(&partial))?;
        }
        if !missing.is_empty() && name.part == Part::Model {
            fs::write(&mark, "").map_err(io(&mark))?;
        }
        let total = missing.iter().map(|file| file.bytes()).sum();
        let counter = Counter { done: AtomicU64::new(0), total, tell };
        let one = |file: &RepoFile| -> Result<(), HubError> {
            let repo = Repo::with_revision(name.repo.clone(), RepoType::Model, listing.sha.clone());
            let url = api.repo(repo).url(&file.path);
            transfer::blob(&client, name, file, &url, &blob(file), &counter)?;
            let place = root.join(&file.path);
            link(&blob(file), &place).map_err(io(&place))
        };
        all(missing, &one)?;
        let done = [(&mark, name.part == Part::Model), (&partial, is_whole)];
        for (mark, _) in done.into_iter().filter(|(mark, done)| *done && mark.exists()) {
            fs::remove_file(mark).map_err(io(mark))?;
        }
        let named = folder.join("refs").join(&name.revision);
        fs::create_dir_all(named.parent().unwrap_or(&folder)).map_err(io(&named))?;
        fs::write(&named, &listing.sha).map_err(io(&named))?;
        Ok(fetched(kind, &root, &chosen))
    }

    fn api(&self) -> Result<Api, HubError> {
        let builder = ApiBuilder::from_cache(Cache::new(self.cache.clone()));
        let api = builder.with_endpoint(self.endpoint.clone()).with_token(self.token.clone()).build();
        let url = self.endpoint.clone();
        api.map_err(|error| HubError::Unreachable { url, reason: error.to_string() })
    }

    fn listing(&self, api: &Api, name: &Name) -> Result<Listing, HubError> {
        let repo = Repo::with_revision(name.repo.clone(), RepoType::Model, name.revision.clone());
        let request = api.repo(repo).info_request().query("blobs", "true");
        let url = format!("{}/api/models/{}", self.endpoint, name.repo);
        let bad = |reason: String| HubError::BadAnswer { name: name.to_string(), reason };
        let mut response = request.call().map_err(|error| transfer::answer(name, &url, &error))?;
        let text = response.body_mut().read_to_string().map_err(|error| bad(error.to_string()))?;
        let listing: Listing = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
        if listing.is_sound() { Ok(listing) } else { Err(bad("a path or a commit is none".to_owned())) }
    }

    /// Checks that what has to be downloaded fits.
    fn check_space<'f>(
        &self,
        name: &Name,
        missing: impl Iterator<Item = &'f RepoFile>,
    ) -> Result<(), HubError> {
        let needed: u64 = missing.map(RepoFile::bytes).sum();
        let existing = self.cache.ancestors().find(|folder| folder.exists());
        match existing.and_then(free) {
            Some(free) if free < needed => {
                Err(HubError::NoSpace { name: name.to_string(), needed, free, cache: self.cache.clone() })
            }
            _ => Ok(()),
        }
    }
}

/// Marks a snapshot whose files are being downloaded.
const INCOMPLETE: &str = ".magcache-incomplete";

/// Marks a snapshot of which some files were wanted, and not all that a model needs.
const PARTIAL: &str = ".magcache-partial";

impl RepoFile {
    /// A file that is there.
    fn at(path: &str) -> Option<Self> {
        serde_json::from_value(serde_json::json!({ "rfilename": path })).ok()
    }
}

fn fetched(kind: Kind, root: &Path, files: &[&RepoFile]) -> Fetched {
    match kind {
        Kind::Folder => Fetched::Folder(root.to_owned()),
        Kind::Files => {
            let weights = files.iter().filter(|file| choice::is_file_of_weights(&file.path));
            Fetched::Files(weights.map(|file| root.join(&file.path)).collect())
        }
    }
}

/// Bytes that are free where the folder is.
#[cfg(unix)]
fn free(folder: &Path) -> Option<u64> {
    let about = rustix::fs::statvfs(folder).ok()?;
    Some(about.f_bavail.saturating_mul(about.f_frsize))
}

#[cfg(not(unix))]
fn free(_: &Path) -> Option<u64> {
    None
}

/// Makes `place` stand for `blob`, as the hub's client does: a relative link, or the file itself where there
/// are no links.
fn link(blob: &Path, place: &Path) -> std::io::Result<()> {
    if place.exists() {
        return Ok(());
    }
    let folder = place.parent().unwrap_or(Path::new(""));
    fs::create_dir_all(folder)?;
    // A link that leads nowhere.
    if place.is_symlink() {
        fs::remove_file(place)?;
    }
    #[cfg(unix)]
    {
        let common = folder.ancestors().find(|parent| blob.starts_with(parent)).unwrap_or(Path::new(""));
        let up = folder.strip_prefix(common).map_or(0, |below| below.components().count());
        let own = blob.strip_prefix(common).unwrap_or(blob);
        let target = std::iter::repeat_n("..", up).collect::<PathBuf>().join(own);
        match std::os::unix::fs::symlink(target, place) {
            // Another process was faster.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            done => done,
        }
    }
    #[cfg(not(unix))]
    fs::copy(blob, place).map(|_| ())
}

/// Does `one` for every file, several at once; the first error ends it.
fn all(
    files: Vec<&RepoFile>,
    one: &(dyn Fn(&RepoFile) -> Result<(), HubError> + Sync),
) -> Result<(), HubError> {
    let workers = AT_ONCE.min(files.len());
    let (left, failed) = (Mutex::new(VecDeque::from(files)), Mutex::new(None));
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let next = left.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some(file) = next else { return };
                    if let Err(error) = one(file) {
                        left.lock().unwrap_or_else(PoisonError::into_inner).clear();
                        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}
