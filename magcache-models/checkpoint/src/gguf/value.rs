//! Values of a GGUF file. Arrays stay in the file: a tokenizer's have 256,000 entries.

use std::ops::Range;

use super::{Fault, Parsed, cursor::Cursor};

/// A value of the table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// An integer of any width.
    Integer(i64),
    /// Above all values of an `i64`.
    Huge(u64),
    /// A float of either width.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    Text(String),
    /// Values of one type in the file.
    Array {
        /// Their type.
        kind: Kind,
        /// How many.
        count: usize,
        /// Where they are.
        range: Range<usize>,
    },
}

/// Types of single values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An unsigned or signed integer of so many bytes.
    Integer {
        /// 1, 2, 4 or 8.
        bytes: usize,
        /// Whether it has a sign.
        signed: bool,
    },
    /// 4 or 8 bytes.
    Float(usize),
    /// One byte.
    Bool,
    /// A length and bytes.
    Text,
}

/// The code of arrays.
const ARRAY: u32 = 9;

impl Kind {
    fn of(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::Integer { bytes: 1, signed: false },
            1 => Self::Integer { bytes: 1, signed: true },
            2 => Self::Integer { bytes: 2, signed: false },
            3 => Self::Integer { bytes: 2, signed: true },
            4 => Self::Integer { bytes: 4, signed: false },
            5 => Self::Integer { bytes: 4, signed: true },
            6 => Self::Float(4),
            7 => Self::Bool,
            8 => Self::Text,
            10 => Self::Integer { bytes: 8, signed: false },
            11 => Self::Integer { bytes: 8, signed: true },
            12 => Self::Float(8),
            _ => return None,
        })
    }

    fn read(self, cursor: &mut Cursor<'_>) -> Parsed<Value> {
        Ok(match self {
            Self::Integer { bytes, signed } => {
                let low = cursor.take(bytes)?;
                let negative = signed && low.last().is_some_and(|byte| byte >> 7 == 1);
                let mut all = [if negative { 0xff } else { 0 }; 8];
                all.iter_mut().zip(low).for_each(|(to, from)| *to = *from);
                match (signed, i64::from_le_bytes(all)) {
                    (false, number) if number < 0 => Value::Huge(u64::from_le_bytes(all)),
                    (_, number) => Value::Integer(number),
                }
            }
            Self::Float(4) => Value::Float(f32::from_bits(cursor.u32()?).into()),
            Self::Float(_) => Value::Float(f64::from_bits(cursor.u64()?)),
            Self::Bool => Value::Bool(cursor.u8()? != 0),
            Self::Text => Value::Text(String::from_utf8_lossy(cursor.text()?).into_owned()),
        })
    }

    /// Passes over `count` values.
    fn skip(self, cursor: &mut Cursor<'_>, count: usize) -> Parsed<()> {
        let bytes = match self {
            Self::Integer { bytes, .. } | Self::Float(bytes) => bytes,
            Self::Bool => 1,
            Self::Text => {
                for _ in 0..count {
                    cursor.text()?;
                }
                return Ok(());
            }
        };
        cursor.take(count.saturating_mul(bytes)).map(|_| ())
    }
}

impl Value {
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Parsed<Self> {
        let at = cursor.at();
        let kind = |code: u32| match Kind::of(code) {
            Some(kind) => Ok(kind),
            None => Err(Fault { at, reason: format!("a value has the unknown type {code}") }),
        };
        match cursor.u32()? {
            ARRAY => {
                let kind = kind(cursor.u32()?)?;
                let count = usize::try_from(cursor.u64()?).unwrap_or(usize::MAX);
                let start = cursor.at();
                kind.skip(cursor, count)?;
                Ok(Self::Array { kind, count, range: start..cursor.at() })
            }
            code => kind(code)?.read(cursor),
        }
    }

    /// The number, if it is one that counts.
    pub(crate) fn integer(&self) -> Option<u64> {
        match self {
            Self::Integer(number) => u64::try_from(*number).ok(),
            Self::Huge(number) => Some(*number),
            _ => None,
        }
    }

    /// The values of an array in `bytes`, the whole file.
    fn array<T>(&self, bytes: &[u8], of: impl Fn(Self) -> Option<T>) -> Option<Vec<T>> {
        let Self::Array { kind, count, range } = self else { return None };
        let mut cursor = Cursor::new(bytes.get(range.clone())?);
        let mut values = Vec::new();
        for _ in 0..*count {
            values.push(of(kind.read(&mut cursor).ok()?)?);
        }
        Some(values)
    }

    /// The integers of an array in the file `bytes`.
    pub(crate) fn integers(&self, bytes: &[u8]) -> Option<Vec<i64>> {
        self.array(bytes, |value| if let Self::Integer(number) = value { Some(number) } else { None })
    }

    /// The value as a number; a flag is 0 or 1.
    pub(crate) fn number(&self) -> Option<f64> {
        match self {
            Self::Integer(number) => Some(*number as f64),
            Self::Huge(number) => Some(*number as f64),
            Self::Float(number) => Some(*number),
            Self::Bool(set) => Some(f64::from(u8::from(*set))),
            Self::Text(_) | Self::Array { .. } => None,
        }
    }

    /// The numbers of an array in the file `bytes`.
    pub(crate) fn numbers(&self, bytes: &[u8]) -> Option<Vec<f64>> {
        self.array(bytes, |value| value.number())
    }

    /// The texts of an array in the file `bytes`.
    pub(crate) fn texts(&self, bytes: &[u8]) -> Option<Vec<String>> {
        self.array(bytes, |value| if let Self::Text(text) = value { Some(text) } else { None })
    }

    /// The bytes of an array of bytes in the file `bytes`.
    pub(crate) fn bytes<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        match self {
            Self::Array { kind: Kind::Integer { bytes: 1, .. }, range, .. } => bytes.get(range.clone()),
            _ => None,
        }
    }
}
