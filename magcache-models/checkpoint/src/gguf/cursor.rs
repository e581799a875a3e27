//! Reads one thing after the other, and nothing beyond the end.

use super::{Fault, Parsed};

pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn take(&mut self, count: usize) -> Parsed<&'a [u8]> {
        let end = self.at.checked_add(count);
        let Some(bytes) = end.and_then(|end| self.bytes.get(self.at..end)) else {
            let left = self.bytes.len() - self.at;
            let reason = format!("{count} bytes should follow, the file ends after {left}");
            return Err(Fault { at: self.at, reason });
        };
        self.at += count;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        Ok(self.take(N)?.try_into().unwrap_or([0; N]))
    }

    pub(super) fn u8(&mut self) -> Parsed<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Parsed<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Parsed<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// The bytes of a string.
    pub(super) fn text(&mut self) -> Parsed<&'a [u8]> {
        let length = self.u64()?;
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    pub(super) fn string(&mut self) -> Parsed<String> {
        let at = self.at;
        match std::str::from_utf8(self.text()?) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(Fault { at, reason: "a name is not UTF-8".into() }),
        }
    }
}
