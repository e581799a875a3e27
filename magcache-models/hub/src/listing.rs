//! What a repository contains.

use serde::Deserialize;

/// Files of a revision.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Listing {
    /// The commit.
    pub(crate) sha: String,
    pub(crate) siblings: Vec<RepoFile>,
}

/// A file of a repository.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct RepoFile {
    #[serde(rename = "rfilename")]
    pub(crate) path: String,
    #[serde(default)]
    pub(crate) size: u64,
    /// The checksum that git has of it.
    #[serde(rename = "blobId", default)]
    blob: Option<String>,
    lfs: Option<Lfs>,
}

/// What is listed of a large file.
#[derive(Clone, Debug, Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

/// What a file's content must give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checksum<'a> {
    Sha256(&'a str),
    /// SHA-1 of `blob LENGTH` and the content.
    Git(&'a str),
}

impl RepoFile {
    pub(crate) fn bytes(&self) -> u64 {
        self.lfs.as_ref().map_or(self.size, |lfs| lfs.size)
    }

    /// The checksum, which is also the name of the blob; `None` if none is listed that looks like one.
    pub(crate) fn checksum(&self) -> Option<Checksum<'_>> {
        let hex = |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit());
        match (&self.lfs, &self.blob) {
            (Some(lfs), _) if hex(&lfs.sha256, 64) => Some(Checksum::Sha256(&lfs.sha256)),
            (None, Some(blob)) if hex(blob, 40) => Some(Checksum::Git(blob)),
            _ => None,
        }
    }
}

impl Checksum<'_> {
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Sha256(text) | Self::Git(text) => text,
        }
    }
}

impl Listing {
    /// Whether every path stays inside the repository and the commit is one.
    pub(crate) fn is_sound(&self) -> bool {
        let plain = |path: &str| {
            !path.is_empty()
                && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
                && !path.contains('\\')
        };
        let commit = self.sha.len() >= 7 && self.sha.bytes().all(|b| b.is_ascii_hexdigit());
        commit && self.siblings.iter().all(|file| plain(&file.path))
    }
}
