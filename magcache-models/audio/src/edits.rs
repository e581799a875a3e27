//! What of an MP4 is heard: its edit list (ISO/IEC 14496-12, 8.6.6), or the note that older encoders leave.
//!
//! An AAC encoder puts one or two packets in front of the sound, and fills the last one. The list says which
//! part of the packets is the sound; whoever ignores it hears everything some 20 to 50 ms late.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

/// Longest index that is read; one of three hours of AAC has 4 MB.
const MAX_INDEX: u64 = 64 << 20;
/// Boxes looked at before the index is given up.
const MAX_BOXES: usize = 10_000;

/// The part of a track that is heard, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Edit {
    /// Silence before the track begins.
    pub(crate) silence: f64,
    /// How much of the track is left out at its start.
    pub(crate) skip: f64,
    /// How much of it is heard; none means all of the rest.
    pub(crate) heard: Option<f64>,
}

impl Edit {
    /// What is heard of a track of `whole` seconds, with the silence before it.
    pub(crate) fn heard_of(&self, whole: f64) -> f64 {
        let rest = (whole - self.skip).max(0.0);
        self.silence + self.heard.map_or(rest, |heard| heard.min(rest))
    }

    /// Of the track with this number, if the file says anything.
    pub(crate) fn read(path: &Path, track: u32) -> io::Result<Option<Self>> {
        let moov = index(&mut File::open(path)?)?;
        Ok(moov.and_then(|moov| Self::of(&moov, track)))
    }

    fn of(moov: &[u8], track: u32) -> Option<Self> {
        let movie = behind_times(content(moov, b"mvhd")?)?;
        let trak = boxes(moov)
            .filter(|(kind, _)| kind == b"trak")
            .map(|(_, trak)| trak)
            .find(|trak| content(trak, b"tkhd").and_then(behind_times) == Some(track))?;
        let media = behind_times(content(content(trak, b"mdia")?, b"mdhd")?)?;
        let listed = content(trak, b"edts")
            .and_then(|edts| content(edts, b"elst"))
            .and_then(|elst| Self::listed(elst, f64::from(movie), f64::from(media)));
        match listed {
            Some(edit) if edit.skip > 0.0 || edit.silence > 0.0 => Some(edit),
            listed => Self::noted(moov, f64::from(media)).or(listed),
        }
    }

    /// The first piece of the list, with the silence in front of it.
    fn listed(elst: &[u8], movie: f64, media: f64) -> Option<Self> {
        let long = elst.first()? == &1;
        let entry = if long { 20 } else { 12 };
        let mut silence = 0.0;
        for entry in elst.get(8..)?.chunks_exact(entry) {
            let (duration, time) = if long {
                (u64_at(entry, 0)?, u64_at(entry, 8)? as i64)
            } else {
                (u64::from(u32_at(entry, 0)?), i64::from(u32_at(entry, 4)? as i32))
            };
            let seconds = duration as f64 / movie;
            if time < 0 {
                silence += seconds;
                continue;
            }
            // The ticks of the movie may be coarser than samples: what is rounded away is still heard.
            let heard = (duration > 0).then_some(seconds + 1.0 / movie);
            return Some(Self { silence, skip: time as f64 / media, heard });
        }
        None
    }

    /// `iTunSMPB`: hexadecimal numbers, of which the second to fourth are the samples in front, the samples
    /// behind, and those between.
    fn noted(moov: &[u8], media: f64) -> Option<Self> {
        let after = &moov[position(moov, b"iTunSMPB")?..];
        let text = after.get(position(after, b"data")? + 12..)?;
        let text = std::str::from_utf8(text.get(..48)?).ok()?;
        let mut numbers = text.split_ascii_whitespace().map(|word| u64::from_str_radix(word, 16));
        let (front, samples) = (numbers.nth(1)?.ok()?, numbers.nth(1)?.ok()?);
        let heard = (samples > 0).then_some(samples as f64 / media);
        Some(Self { silence: 0.0, skip: front as f64 / media, heard })
    }
}

/// The content of the first `moov` box, wherever it lies in the file.
fn index(file: &mut File) -> io::Result<Option<Vec<u8>>> {
    let end = file.metadata()?.len();
    let mut at = 0;
    for _ in 0..MAX_BOXES {
        file.seek(SeekFrom::Start(at))?;
        let mut head = Vec::new();
        file.by_ref().take(16).read_to_end(&mut head)?;
        let Some((size, kind)) = u32_at(&head, 0).zip(head.get(4..8)) else { return Ok(None) };
        let (size, begins) = match size {
            0 => (end - at, 8),
            1 => (u64_at(&head, 8).unwrap_or(0), 16),
            size => (u64::from(size), 8),
        };
        if size < begins {
            return Ok(None);
        }
        if kind == b"moov" {
            let mut moov = Vec::new();
            file.seek(SeekFrom::Start(at + begins))?;
            file.take((size - begins).min(MAX_INDEX)).read_to_end(&mut moov)?;
            return Ok(Some(moov));
        }
        at = match at.checked_add(size) {
            Some(next) if next < end => next,
            _ => return Ok(None),
        };
    }
    Ok(None)
}

/// The boxes inside a box: kind and content.
fn boxes(mut bytes: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    std::iter::from_fn(move || {
        let (head, rest) = bytes.split_first_chunk::<8>()?;
        let [a, b, c, d, kind @ ..] = *head;
        let length = (u32::from_be_bytes([a, b, c, d]) as usize).checked_sub(8)?;
        let (content, after) = rest.split_at_checked(length)?;
        bytes = after;
        Some((kind, content))
    })
}

/// The first box of a kind inside a box.
fn content<'a>(bytes: &'a [u8], kind: &[u8; 4]) -> Option<&'a [u8]> {
    boxes(bytes).find(|(of, _)| of == kind).map(|(_, content)| content)
}

/// What follows the two times at the start of `mvhd` and `mdhd` (ticks per second) and of `tkhd` (the number
/// of the track); the times have 64 bits in version 1.
fn behind_times(bytes: &[u8]) -> Option<u32> {
    u32_at(bytes, if bytes.first()? == &1 { 20 } else { 12 })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn position(bytes: &[u8], word: &[u8]) -> Option<usize> {
    bytes.windows(word.len()).position(|window| window == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxed(kind: &[u8; 4], content: &[&[u8]]) -> Vec<u8> {
        let content = content.concat();
        [&(content.len() as u32 + 8).to_be_bytes(), kind.as_slice(), &content].concat()
    }

    /// A movie of 1000 ticks per second with track 7, of 8000; then what `more` is.
    fn movie(edits: &[u8], more: &[u8]) -> Vec<u8> {
        let head = |kind, ticks: u32| boxed(kind, &[&[0; 12], &ticks.to_be_bytes()]);
        let mdia = boxed(b"mdia", &[&head(b"mdhd", 8000)]);
        [head(b"mvhd", 1000), boxed(b"trak", &[&head(b"tkhd", 7), edits, &mdia]), more.to_vec()].concat()
    }

    fn list(version: u8, entries: &[(u32, i32)]) -> Vec<u8> {
        let mut elst = vec![version, 0, 0, 0];
        elst.extend((entries.len() as u32).to_be_bytes());
        for (duration, time) in entries {
            if version == 1 {
                elst.extend(u64::from(*duration).to_be_bytes());
                elst.extend(i64::from(*time).to_be_bytes());
            } else {
                elst.extend(duration.to_be_bytes());
                elst.extend(time.to_be_bytes());
            }
            elst.extend([0, 1, 0, 0]);
        }
        boxed(b"edts", &[&boxed(b"elst", &[&elst])])
    }

    #[test]
    fn lists_of_both_versions_tell_silence_and_place() {
        for version in [0, 1] {
            let edit = Edit::of(&movie(&list(version, &[(250, -1), (2000, 1024)]), &[]), 7).unwrap();
            assert_eq!(edit, Edit { silence: 0.25, skip: 0.128, heard: Some(2.001) });
            assert_eq!((edit.heard_of(9.0), edit.heard_of(1.128)), (2.251, 1.25));
            let open = Edit::of(&movie(&list(version, &[(0, 16)]), &[]), 7).unwrap();
            assert_eq!(open, Edit { silence: 0.0, skip: 0.002, heard: None });
        }
        let short = Edit::of(&movie(&list(0, &[(500, 0)]), &[]), 7).unwrap();
        assert_eq!(short, Edit { silence: 0.0, skip: 0.0, heard: Some(0.501) });
        assert_eq!(Edit::of(&movie(&[], &[]), 7), None);
        assert_eq!(Edit::of(&movie(&list(0, &[(250, -1)]), &[]), 7), None);
        assert_eq!(Edit::of(&movie(&list(0, &[(250, 9)]), &[]), 8), None, "another track");
    }

    #[test]
    fn a_note_counts_where_the_list_says_nothing() {
        let text = b" 00000000 00000840 000001C0 0000000000001F40 00000000";
        let note = boxed(b"free", &[b"\0\0\0\x10name\0\0\0\0iTunSMPB\0\0\0\x44data\0\0\0\x01\0\0\0\0", text]);
        let noted = Some(Edit { silence: 0.0, skip: 0.264, heard: Some(1.0) });
        assert_eq!(Edit::of(&movie(&[], &note), 7), noted);
        assert_eq!(Edit::of(&movie(&list(0, &[(9000, 0)]), &note), 7), noted);
        let listed = Edit::of(&movie(&list(0, &[(9000, 8)]), &note), 7).unwrap();
        assert_eq!(listed.skip, 0.001);
    }

    #[test]
    fn an_index_is_read_as_far_as_it_goes() {
        let whole = movie(&list(1, &[(250, -1), (2000, 1024)]), b"iTunSMPB\0\0\0\x44data 00");
        for end in 0..whole.len() {
            let _ = Edit::of(&whole[..end], 7);
        }
        for (at, value) in (0..whole.len()).flat_map(|at| (0..48).chain([255]).map(move |value| (at, value)))
        {
            let mut bytes = whole.clone();
            bytes[at] = value;
            let _ = Edit::of(&bytes, 7);
        }
    }
}
