//! A server with one repository, on a port of its own: what the hub answers, and what goes wrong.

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use sha1::{Digest, Sha1};
use sha2::Sha256;

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A file of the repository and the checksum that is listed.
#[derive(Clone)]
pub(crate) struct Served {
    path: String,
    pub(crate) content: Vec<u8>,
    sum: String,
    lfs: bool,
}

pub(crate) fn file(path: &str, content: &[u8], lfs: bool) -> Served {
    let hex = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
    };
    let sum = if lfs {
        hex(&Sha256::digest(content))
    } else {
        hex(&Sha1::digest([format!("blob {}\0", content.len()).as_bytes(), content].concat()))
    };
    Served { path: path.to_owned(), content: content.to_vec(), sum, lfs }
}

#[derive(Default)]
struct State {
    asked: AtomicUsize,
    /// First bytes of the transfers.
    ranges: Mutex<Vec<u64>>,
    /// Transfers end after so many bytes, so many times.
    cut: Mutex<(usize, usize)>,
    token: Mutex<Option<String>>,
    /// No byte from this one on is sent.
    end: Mutex<Option<usize>>,
}

pub(crate) struct Server {
    port: u16,
    state: Arc<State>,
}

impl Server {
    pub(crate) fn start(files: Vec<Served>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, state) = (listener.local_addr().unwrap().port(), Arc::new(State::default()));
        let (shared, files) = (Arc::clone(&state), Arc::new(files));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, files) = (Arc::clone(&shared), Arc::clone(&files));
                thread::spawn(move || {
                    let _ = answer(stream, port, &files, &state);
                });
            }
        });
        Self { port, state }
    }

    pub(crate) fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn asked(&self) -> usize {
        self.state.asked.load(Ordering::SeqCst)
    }

    pub(crate) fn ranges(&self) -> Vec<u64> {
        self.state.ranges.lock().unwrap().clone()
    }

    pub(crate) fn cut_after(&self, bytes: usize, times: usize) {
        *self.state.cut.lock().unwrap() = (bytes, times);
    }

    pub(crate) fn end_at(&self, byte: Option<usize>) {
        *self.state.end.lock().unwrap() = byte;
    }

    pub(crate) fn ask_for(&self, token: &str) {
        *self.state.token.lock().unwrap() = Some(token.to_owned());
    }
}

fn answer(mut stream: TcpStream, port: u16, files: &[Served], state: &State) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut from, mut token) = (0u64, None);
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        let (key, value) = line.split_once(": ").unwrap_or_default();
        match key.to_ascii_lowercase().as_str() {
            "range" => {
                from = value.trim_start_matches("bytes=").split('-').next().unwrap().parse().unwrap_or(0);
            }
            "authorization" => token = value.strip_prefix("Bearer ").map(str::to_owned),
            _ => {}
        }
    }
    state.asked.fetch_add(1, Ordering::SeqCst);
    let mut head = |status: &str, more: &str, length: usize| {
        write!(stream, "HTTP/1.1 {status}\r\n{more}Content-Length: {length}\r\nConnection: close\r\n\r\n")
    };
    let asked_for = state.token.lock().unwrap().clone();
    if asked_for.is_some() && token != asked_for && !path.starts_with("/storage/") {
        return head("401 Unauthorized", "", 0);
    }
    if path.starts_with("/api/models/owner/model/revision/") {
        let rows: Vec<String> = files
            .iter()
            .map(|file| {
                let Served { path, content, sum, lfs } = file;
                let size = content.len();
                let lfs = if *lfs {
                    format!(r#", "lfs": {{"sha256": "{sum}", "size": {size}}}"#)
                } else {
                    String::new()
                };
                let blob = if lfs.is_empty() { sum.as_str() } else { "ff" };
                format!(r#"{{"rfilename": "{path}", "size": {size}, "blobId": "{blob}"{lfs}}}"#)
            })
            .collect();
        let body = format!(r#"{{"sha": "{COMMIT}", "siblings": [{}]}}"#, rows.join(", "));
        head("200 OK", "Content-Type: application/json\r\n", body.len())?;
        return stream.write_all(body.as_bytes());
    }
    let resolved = path.strip_prefix(&format!("/owner/model/resolve/{COMMIT}/"));
    if let Some(name) = resolved.filter(|name| files.iter().any(|file| file.path == *name && file.lfs)) {
        // Large files lie elsewhere.
        let location = format!("Location: http://127.0.0.1:{port}/storage/{name}\r\n");
        return head("302 Found", &location, 0);
    }
    let name = resolved.or(path.strip_prefix("/storage/"));
    let Some(file) = files.iter().find(|file| Some(file.path.as_str()) == name) else {
        return head("404 Not Found", "", 0);
    };
    state.ranges.lock().unwrap().push(from);
    let total = file.content.len();
    let rest = &file.content[(from as usize).min(total)..];
    let range = format!("Content-Range: bytes {from}-{}/{total}\r\n", total.max(1) - 1);
    head("206 Partial Content", &range, rest.len())?;
    if let Some(end) = *state.end.lock().unwrap()
        && end < total
    {
        return stream.write_all(&rest[..end.saturating_sub(from as usize)]);
    }
    let mut cut = state.cut.lock().unwrap();
    let (bytes, times) = *cut;
    if times > 0 && rest.len() > bytes {
        cut.1 = times - 1;
        return stream.write_all(&rest[..bytes]);
    }
    drop(cut);
    stream.write_all(rest)
}
