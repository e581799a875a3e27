//! One file from the hub into the cache: resumed where it was cut off, checked, and put in place at once.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
    thread,
    time::Duration,
};

use sha2::{Digest, Sha256};
use ureq::{Agent, RequestBuilder, config::RedirectAuthHeaders, typestate::WithoutBody};

use crate::{
    HubError, Name,
    hub::Counter,
    listing::{Checksum, RepoFile},
};

/// Bytes that are read before progress is told.
const PIECE: usize = 1 << 18;

/// How often a transfer that was cut off is taken up again before it is an error.
const RETRIES: u32 = 5;

/// Ends the names of files that are not complete.
const PART: &str = "part";

fn failed(path: &Path) -> impl Fn(io::Error) -> HubError + '_ {
    |source| HubError::Io { path: path.to_owned(), source }
}

/// Asks for files.
pub(crate) struct Client {
    agent: Agent,
    token: Option<String>,
}

impl Client {
    /// The token goes to the hub alone, not to where it redirects.
    pub(crate) fn new(token: Option<String>) -> Self {
        let config = Agent::config_builder().redirect_auth_headers(RedirectAuthHeaders::SameHost);
        let config = config.timeout_connect(Some(PATIENCE)).timeout_recv_response(Some(PATIENCE));
        Self { agent: config.build().into(), token }
    }

    fn get(&self, url: &str, from: u64) -> RequestBuilder<WithoutBody> {
        let request = self.agent.get(url).header("Range", format!("bytes={from}-"));
        match &self.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        }
    }
}

/// How long a server may take to begin its answer.
const PATIENCE: Duration = Duration::from_mins(1);

/// Downloads `url` to `blob` unless it is there. Another process that downloads the same file is waited for.
pub(crate) fn blob(
    client: &Client,
    name: &Name,
    file: &RepoFile,
    url: &str,
    blob: &Path,
    counter: &Counter<'_>,
) -> Result<(), HubError> {
    let io = failed(blob);
    if let Some(folder) = blob.parent() {
        fs::create_dir_all(folder).map_err(&io)?;
    }
    let lock = File::create(blob.with_extension("lock")).map_err(&io)?;
    loop {
        match lock.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(100)),
            // Where files cannot be locked, processes are trusted not to download the same.
            Err(TryLockError::Error(_)) => break,
        }
    }
    if blob.exists() {
        counter.add(file.bytes());
        return Ok(());
    }
    let part = blob.with_extension(PART);
    let mut out = OpenOptions::new().create(true).append(true).read(true).open(&part).map_err(&io)?;
    let mut there = out.metadata().map_err(&io)?.len();
    if there > file.bytes() {
        out.set_len(0).map_err(&io)?;
        there = 0;
    }
    counter.add(there);
    let mut tries = 0;
    while there < file.bytes() {
        match piece(client, name, url, there, &mut out, counter) {
            Ok(got) if got > 0 => (there, tries) = (there + got, 0),
            Ok(_) if tries >= RETRIES => {
                return Err(HubError::Unreachable {
                    url: url.to_owned(),
                    reason: format!("it ends at byte {there} of {}", file.bytes()),
                });
            }
            Err(error) if tries >= RETRIES || !matches!(error, HubError::Unreachable { .. }) => {
                return Err(error);
            }
            Ok(_) | Err(_) => {
                thread::sleep(Duration::from_millis(200 << tries));
                tries += 1;
            }
        }
    }
    if let Err(found) = check(&mut out, file).map_err(&io)? {
        fs::remove_file(&part).map_err(&io)?;
        let expected = file.checksum().map(|sum| sum.text().to_owned()).unwrap_or_default();
        return Err(HubError::WrongChecksum {
            file: file.path.clone(),
            name: name.to_string(),
            expected,
            found,
        });
    }
    out.flush().map_err(&io)?;
    fs::rename(&part, blob).map_err(&io)?;
    Ok(())
}

/// Appends what follows byte `from`; returns how much came before the end or a cut.
fn piece(
    client: &Client,
    name: &Name,
    url: &str,
    from: u64,
    out: &mut File,
    counter: &Counter<'_>,
) -> Result<u64, HubError> {
    let response = client.get(url, from).call().map_err(|error| answer(name, url, &error))?;
    // A server that does not know ranges begins anew: what is there already is passed over.
    let mut skip = if response.status().as_u16() == 206 { 0 } else { from };
    let mut body = response.into_body().into_reader();
    let (mut buffer, mut got) = (vec![0; PIECE], 0);
    loop {
        let count = match body.read(&mut buffer) {
            Ok(0) => return Ok(got),
            Ok(count) => count as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // A cut: the next request goes on from here.
            Err(_) => return Ok(got),
        };
        let passed = skip.min(count);
        skip -= passed;
        let new = buffer.get(passed as usize..count as usize).unwrap_or_default();
        out.write_all(new).map_err(|source| HubError::Io { path: url.into(), source })?;
        got += new.len() as u64;
        counter.add(new.len() as u64);
    }
}

/// The error for an answer of the hub.
pub(crate) fn answer(name: &Name, url: &str, error: &ureq::Error) -> HubError {
    match error {
        ureq::Error::StatusCode(404) => HubError::NotFound { name: name.repo.clone() },
        ureq::Error::StatusCode(status @ (401 | 403)) => {
            HubError::Denied { name: name.repo.clone(), status: *status }
        }
        other => HubError::Unreachable { url: url.to_owned(), reason: other.to_string() },
    }
}

/// Whether the content gives the listed checksum; the inner error is what it gives.
fn check(content: &mut File, file: &RepoFile) -> io::Result<Result<(), String>> {
    content.seek(SeekFrom::Start(0))?;
    let Some(listed) = file.checksum() else { return Ok(Ok(())) };
    let found = match listed {
        Checksum::Sha256(_) => digest::<Sha256>(content, &[])?,
        Checksum::Git(_) => digest::<sha1::Sha1>(content, format!("blob {}\0", file.bytes()).as_bytes())?,
    };
    Ok(if found == listed.text().to_ascii_lowercase() { Ok(()) } else { Err(found) })
}

fn digest<D: Digest>(content: &mut File, before: &[u8]) -> io::Result<String> {
    let (mut hash, mut buffer) = (D::new(), vec![0; PIECE]);
    hash.update(before);
    loop {
        match content.read(&mut buffer)? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            count => hash.update(buffer.get(..count).unwrap_or_default()),
        }
    }
}
