//! `ModelProto` of sentencepiece, of which only the pieces and the normaliser are read.
//!
//! Source: `sentencepiece_model.proto`.

use super::{Kind, Unigram};

/// A field of a message: its number and what it holds.
enum Field<'a> {
    Number(u64, u64),
    Bytes(u64, &'a [u8]),
    Float(u64, f32),
}

/// Fields of a message, one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number in pieces of seven bits.
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.take(1)?.try_into().ok()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte >> 7 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// The next field, or `None` inside for the end; `None` outside for damage.
    #[expect(clippy::option_option, reason = "the end is no damage")]
    fn next(&mut self) -> Option<Option<Field<'a>>> {
        if self.0.is_empty() {
            return Some(None);
        }
        let key = self.varint()?;
        let number = key >> 3;
        Some(Some(match key & 7 {
            0 => Field::Number(number, self.varint()?),
            1 => Field::Bytes(number, self.take(8)?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Field::Bytes(number, self.take(length)?)
            }
            5 => Field::Float(number, f32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        }))
    }
}

/// The model in these bytes; `None` if they are damaged.
pub(super) fn read(bytes: &[u8]) -> Option<Unigram> {
    let mut model = Unigram {
        pieces: Vec::new(),
        charsmap: Vec::new(),
        space_in_front: true,
        single_spaces: true,
        end: 2,
        pad: 0,
    };
    let mut fields = Fields(bytes);
    while let Some(field) = fields.next()? {
        match field {
            Field::Bytes(1, piece) => model.pieces.push(self::piece(piece)?),
            Field::Bytes(2, trainer) => {
                let mut fields = Fields(trainer);
                while let Some(field) = fields.next()? {
                    match field {
                        Field::Number(42, id) => model.end = id as usize,
                        Field::Number(43, id) => model.pad = id as u32,
                        _ => {}
                    }
                }
            }
            Field::Bytes(3, normalizer) => {
                let mut fields = Fields(normalizer);
                while let Some(field) = fields.next()? {
                    match field {
                        Field::Bytes(2, table) => model.charsmap = table.to_vec(),
                        Field::Number(3, set) => model.space_in_front = set != 0,
                        Field::Number(4, set) => model.single_spaces = set != 0,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    (model.end < model.pieces.len()).then_some(model)
}

fn piece(bytes: &[u8]) -> Option<(String, f64, Kind)> {
    let (mut text, mut score, mut kind) = (String::new(), 0.0, Kind::Normal);
    let mut fields = Fields(bytes);
    while let Some(field) = fields.next()? {
        match field {
            Field::Bytes(1, bytes) => text = String::from_utf8(bytes.to_vec()).ok()?,
            Field::Float(2, value) => score = f64::from(value),
            Field::Number(3, number) => kind = Kind::of(number),
            _ => {}
        }
    }
    Some((text, score, kind))
}
