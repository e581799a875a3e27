//! A module's tensors as the bytes that store them, one after the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use super::{Located, OpenFile, TensorSet, Weights};
use crate::{blob::Blob, header::TensorInfo, metadata::Metadata};

/// Where the tensors of a module are stored, as one line of bytes: parts of it can be kept apart, and all of
/// it gives the tensors again, whatever their number formats, with what adapters change.
#[derive(Clone)]
pub struct Flat {
    weights: Weights,
    /// Bytes of files, without overlaps, in the order of the line.
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug)]
struct Piece {
    file: usize,
    range: Range<usize>,
    /// Of its first byte in the line.
    at: usize,
}

impl Weights {
    /// This module's tensors as one line of bytes. Reads nothing yet.
    pub fn flat(&self) -> Flat {
        let ranges = self.scoped().map(|(_, tensor)| (tensor.file, tensor.info.range.clone()));
        let sorted: BTreeSet<(usize, usize, usize)> =
            ranges.map(|(file, range)| (file, range.start, range.end)).collect();
        let mut pieces: Vec<Piece> = Vec::new();
        for (file, start, end) in sorted {
            match pieces.last_mut() {
                // Two tensors may be parts of a third one.
                Some(last) if last.file == file && start <= last.range.end => {
                    last.range.end = last.range.end.max(end);
                }
                last => {
                    let at = last.map_or(0, |last| last.at + last.range.len());
                    pieces.push(Piece { file, range: start..end, at });
                }
            }
        }
        Flat { weights: self.clone(), pieces }
    }

    /// Marks as read what `other`, a module like this one, was read of: for tensors that are read later, from
    /// [`Flat::tensors`]. Returns false if one of them is missing here or of another shape.
    pub fn read_like(&self, other: &Self) -> bool {
        let is_read = |(_, tensor): &(&String, &Located)| tensor.used.load(Ordering::Relaxed);
        let own = |(name, tensor): (&String, &Located)| {
            let name = format!("{}{}", self.prefix, name.strip_prefix(&other.prefix)?);
            let own = self.set.tensors.get(&name)?;
            own.used.store(true, Ordering::Relaxed);
            (own.info.shape == tensor.info.shape).then_some(())
        };
        other.scoped().filter(is_read).all(|tensor| own(tensor).is_some())
    }
}

impl Flat {
    /// Bytes of the line.
    pub fn len(&self) -> usize {
        self.pieces.last().map_or(0, |last| last.at + last.range.len())
    }

    /// Whether the module has no tensors.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A part of the line, copied out of the files.
    pub fn read(&self, part: Range<usize>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(part.len());
        let of = |piece: &Piece| {
            let (start, end) = (part.start.max(piece.at), part.end.min(piece.at + piece.range.len()));
            let file = self.weights.set.files.get(piece.file).filter(|_| start < end)?;
            Some((file, piece.range.start + start - piece.at..piece.range.start + end - piece.at))
        };
        self.pieces.iter().filter_map(of).for_each(|(file, own)| file.blob.will_need(own));
        for (file, own) in self.pieces.iter().filter_map(of) {
            bytes.extend_from_slice(file.blob.bytes().get(own.clone()).unwrap_or_default());
            file.blob.release(own);
        }
        bytes
    }

    /// The tensors of the module, under their names, from all bytes of the line.
    pub fn tensors(&self, line: Vec<u8>) -> Weights {
        let Weights { set, prefix } = &self.weights;
        let moved = |(name, tensor): (&String, &Located)| {
            let TensorInfo { range, .. } = &tensor.info;
            let of = |piece: &&Piece| piece.file == tensor.file && piece.range.end >= range.end;
            let piece = self.pieces.iter().find(of)?;
            let start = piece.at + range.start.checked_sub(piece.range.start)?;
            let info = TensorInfo { range: start..start + range.len(), ..tensor.info.clone() };
            Some((name.clone(), Located::new(0, info, tensor.stored_as.clone())))
        };
        let first = set.files.first();
        let file = OpenFile {
            place: self.weights.place(),
            blob: Blob::Memory(line.into()),
            format: first.map_or(super::Format::Safetensors, |file| file.format),
            metadata: Metadata::default(),
        };
        let changes: BTreeMap<_, _> =
            set.changes.iter().filter(|(name, _)| name.starts_with(prefix.as_str())).collect();
        let set = TensorSet {
            files: vec![file],
            tensors: self.weights.scoped().filter_map(moved).collect(),
            uploads: set.uploads.clone(),
            dtype: set.dtype,
            ops: set.ops,
            is_coded: set.is_coded,
            unread: None,
            changes: changes.into_iter().map(|(name, all)| (name.clone(), all.clone())).collect(),
        };
        Weights { set: Arc::new(set), prefix: prefix.clone() }
    }
}

impl fmt::Debug for Flat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flat")
            .field("module", &self.weights.prefix)
            .field("bytes", &self.len())
            .finish_non_exhaustive()
    }
}
