//! The instructions of a pickle, as far as state dictionaries use them.
//!
//! Values are kept in one list and refer to each other by index, so nesting uses no stack and a value that is
//! memoised twice exists once. Every instruction creates at most one small value: time and memory are bounded
//! by the pickle's length.

use std::{collections::HashMap, sync::Arc};

use safetensors::Dtype;

use super::{Fault, Parsed, bad, globals::Global};

/// Longest pickle that is accepted; that of UMT5-XXL's encoder has 40 kB.
const LONGEST: usize = 16 << 20;

/// Most axes of a tensor, as in PyTorch.
const MOST_AXES: usize = 64;

/// A value's place in [`Machine::values`].
pub(super) type Id = usize;

#[derive(Clone, Debug)]
pub(super) enum Value {
    Bool(bool),
    Int(i64),
    Text(Arc<str>),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Storage),
    Tensor(StoredTensor),
    /// Values that no tensor depends on: `None`, floats, bytes.
    Other,
}

/// A piece of memory that tensors are views of.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    pub(super) key: Arc<str>,
    /// Type of its elements; `None` for untyped bytes.
    pub(super) dtype: Option<Dtype>,
    /// Number of elements.
    pub(super) length: usize,
}

/// A tensor as a view of a storage; offset and strides are in elements.
#[derive(Clone, Debug)]
pub(super) struct StoredTensor {
    pub(super) storage: Storage,
    pub(super) dtype: Dtype,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// The result of a call.
enum Made {
    New(Value),
    /// One of its arguments.
    Same(Id),
}

#[derive(Debug, Default)]
pub(super) struct Machine {
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Marked heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

/// The bytes of a pickle that have not been processed yet.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Parsed<&'a [u8]> {
        let taken = self.at.checked_add(length).and_then(|end| self.bytes.get(self.at..end));
        let Some(taken) = taken else {
            return bad(format!("its pickle ends after {} bytes", self.bytes.len()));
        };
        self.at += length;
        Ok(taken)
    }

    fn number(&mut self, width: usize) -> Parsed<u64> {
        Ok(self.take(width)?.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn text(&mut self, width: usize) -> Parsed<Arc<str>> {
        let length = self.number(width)?;
        let bytes = self.take(usize::try_from(length).unwrap_or(usize::MAX))?;
        str::from_utf8(bytes).map(Arc::from).or_else(|_| bad("a text of its pickle is not UTF-8"))
    }

    fn line(&mut self) -> Parsed<String> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        let line = self.take(length)?;
        self.take(1)?;
        Ok(String::from_utf8_lossy(line).into_owned())
    }
}

impl Machine {
    /// Follows a pickle to its end.
    pub(super) fn run(&mut self, bytes: &[u8]) -> Parsed<Id> {
        Ok(self.run_prefix(bytes)?.0)
    }

    /// Follows the pickle at the start of `bytes`; returns its value and its length.
    pub(super) fn run_prefix(&mut self, bytes: &[u8]) -> Parsed<(Id, usize)> {
        let mut reader = Reader { bytes: bytes.get(..LONGEST).unwrap_or(bytes), at: 0 };
        (self.stack, self.marks, self.memo) = (Vec::new(), Vec::new(), HashMap::new());
        loop {
            let at = reader.at;
            let opcode = reader.take(1)?.first().copied().unwrap_or_default();
            if opcode == b'.' {
                return Ok((self.pop()?, reader.at));
            }
            self.step(opcode, &mut reader, at)?;
        }
    }

    pub(super) fn value(&self, id: Id) -> &Value {
        self.values.get(id).unwrap_or(&Value::Other)
    }

    /// All values made so far, in the order of their ids.
    pub(super) fn values(&self) -> &[Value] {
        &self.values
    }

    fn step(&mut self, opcode: u8, reader: &mut Reader<'_>, at: usize) -> Parsed<()> {
        let value = match opcode {
            // Protocol and frame length.
            0x80 => return reader.take(1).map(|_| ()),
            0x95 => return reader.take(8).map(|_| ()),
            b'(' => {
                self.marks.push(self.stack.len());
                return Ok(());
            }
            b'0' => return self.pop().map(|_| ()),
            b'1' => return self.pop_to_mark().map(|_| ()),
            // Memo: put, get.
            b'q' => return reader.number(1).and_then(|key| self.remember(key)),
            b'r' => return reader.number(4).and_then(|key| self.remember(key)),
            0x94 => return self.remember(self.memo.len() as u64),
            b'h' => return reader.number(1).and_then(|key| self.recall(key)),
            b'j' => return reader.number(4).and_then(|key| self.recall(key)),
            // Appends to a list or dictionary on the stack.
            b'a' => {
                let item = self.pop()?;
                return self.extend(vec![item]);
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                return self.extend(items);
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                return self.insert(vec![key, value]);
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                return self.insert(items);
            }
            // State of an object: a dictionary's metadata, a tensor's attributes.
            b'b' => return self.pop().map(|_| ()),
            b'N' => Value::Other,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'J' => Value::Int(i64::from(reader.number(4)? as u32 as i32)),
            b'K' => Value::Int(reader.number(1)? as i64),
            b'M' => Value::Int(reader.number(2)? as i64),
            0x8a => long(reader)?,
            b'G' => reader.take(8).map(|_| Value::Other)?,
            b'X' => Value::Text(reader.text(4)?),
            0x8c => Value::Text(reader.text(1)?),
            0x8d => Value::Text(reader.text(8)?),
            b'B' => skip(reader, 4)?,
            b'C' => skip(reader, 1)?,
            b')' => Value::Tuple(Vec::new()),
            0x85..=0x87 => {
                let count = usize::from(opcode - 0x84);
                let Some(start) = self.stack.len().checked_sub(count).filter(|start| *start >= self.floor())
                else {
                    return bad("its pickle takes a value that is not there");
                };
                Value::Tuple(self.stack.split_off(start))
            }
            b't' => Value::Tuple(self.pop_to_mark()?),
            b']' => Value::List(Vec::new()),
            b'l' => Value::List(self.pop_to_mark()?),
            b'}' => Value::Dict(Vec::new()),
            b'd' => Value::Dict(pairs(&self.pop_to_mark()?)?),
            b'c' => Value::Global(Global::named(&reader.line()?, &reader.line()?)?),
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (self.value(module), self.value(name)) {
                    (Value::Text(module), Value::Text(name)) => Value::Global(Global::named(module, name)?),
                    _ => return bad("a name in its pickle is not text"),
                }
            }
            b'Q' => {
                let id = self.pop()?;
                Value::Storage(self.storage(id)?)
            }
            b'R' | 0x81 => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                match self.call(callable, arguments)? {
                    Made::New(value) => value,
                    Made::Same(id) => {
                        self.stack.push(id);
                        return Ok(());
                    }
                }
            }
            _ => {
                return bad(format!(
                    "byte {at} of its pickle is {opcode:#04x}, which no state dictionary has"
                ));
            }
        };
        self.stack.push(self.values.len());
        self.values.push(value);
        Ok(())
    }

    /// The stack height below which nothing may be popped.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or_default()
    }

    fn pop(&mut self) -> Parsed<Id> {
        let top = if self.stack.len() > self.floor() { self.stack.pop() } else { None };
        top.ok_or_else(|| Fault::Bad("its pickle takes a value that is not there".into(), None))
    }

    fn pop_to_mark(&mut self) -> Parsed<Vec<Id>> {
        match self.marks.pop() {
            Some(height) if height <= self.stack.len() => Ok(self.stack.split_off(height)),
            _ => bad("its pickle takes a mark that is not there"),
        }
    }

    fn remember(&mut self, key: u64) -> Parsed<()> {
        let Some(top) = self.stack.last() else {
            return bad("its pickle remembers a value that is not there");
        };
        self.memo.insert(key as u32, *top);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Parsed<()> {
        let Some(id) = self.memo.get(&(key as u32)) else {
            return bad(format!("its pickle recalls value {key}, which it has not remembered"));
        };
        self.stack.push(*id);
        Ok(())
    }

    fn extend(&mut self, items: Vec<Id>) -> Parsed<()> {
        match self.top() {
            Some(Value::List(list)) => list.extend(items),
            _ => return bad("its pickle appends to what is not a list"),
        }
        Ok(())
    }

    fn insert(&mut self, items: Vec<Id>) -> Parsed<()> {
        let pairs = pairs(&items)?;
        match self.top() {
            Some(Value::Dict(dict)) => dict.extend(pairs),
            _ => return bad("its pickle sets an item of what is not a dictionary"),
        }
        Ok(())
    }

    fn top(&mut self) -> Option<&mut Value> {
        self.stack.last().and_then(|id| self.values.get_mut(*id))
    }

    /// A persistent id: `("storage", class, key, device, length)`, in old files followed by a view, which
    /// must be `None`.
    fn storage(&self, id: Id) -> Parsed<Storage> {
        let parts = self.tuple(id)?;
        let part = |i: usize| parts.get(i).map(|id| self.value(*id));
        let dtype = match part(1) {
            Some(Value::Global(Global::Storage(dtype))) => Some(*dtype),
            Some(Value::Global(Global::UntypedStorage)) => None,
            _ => return bad("a storage has no class"),
        };
        match (part(0), part(2), part(4), part(5)) {
            (
                Some(Value::Text(kind)),
                Some(Value::Text(key)),
                Some(Value::Int(length)),
                None | Some(Value::Other),
            ) if **kind == *"storage" => Ok(Storage { key: Arc::clone(key), dtype, length: size(*length)? }),
            _ => bad("it has a storage in a form that PyTorch no longer writes"),
        }
    }

    /// Calls one of the functions that make values.
    fn call(&self, callable: Id, arguments: Id) -> Parsed<Made> {
        let Value::Global(global) = self.value(callable) else { return bad("its pickle calls a value") };
        let arguments = self.tuple(arguments)?;
        let argument = |i: usize| arguments.get(i).map(|id| self.value(*id));
        let made = match (global, arguments) {
            (Global::OrderedDict, []) => Value::Dict(Vec::new()),
            (Global::Size, [sizes]) => return Ok(Made::Same(*sizes)),
            (Global::RebuildTensor, _) => self.rebuild(arguments, None)?,
            (Global::RebuildTensorV3, _) => match argument(6) {
                Some(Value::Global(Global::Dtype(dtype))) => self.rebuild(arguments, Some(*dtype))?,
                _ => return bad("a tensor has no type"),
            },
            (Global::RebuildParameter, [tensor, ..]) => return Ok(Made::Same(*tensor)),
            (Global::RebuildFromType, [function, _, inner, ..]) => return self.call(*function, *inner),
            (other, _) => return bad(format!("its pickle calls {other:?}, which makes no tensor")),
        };
        Ok(Made::New(made))
    }

    fn rebuild(&self, arguments: &[Id], dtype: Option<Dtype>) -> Parsed<Value> {
        let [storage, offset, shape, strides, ..] = arguments else {
            return bad(format!("a tensor is rebuilt from {} values, expected at least 4", arguments.len()));
        };
        let (Value::Storage(storage), Value::Int(offset)) = (self.value(*storage), self.value(*offset))
        else {
            return bad("a tensor has no storage");
        };
        let Some(dtype) = dtype.or(storage.dtype) else { return bad("a tensor has no type") };
        let (shape, strides) = (self.sizes(*shape)?, self.sizes(*strides)?);
        if shape.len() != strides.len() {
            return bad(format!("a tensor has the shape {shape:?} and the strides {strides:?}"));
        }
        Ok(Value::Tensor(StoredTensor {
            storage: storage.clone(),
            dtype,
            offset: size(*offset)?,
            shape,
            strides,
        }))
    }

    fn tuple(&self, id: Id) -> Parsed<&[Id]> {
        match self.value(id) {
            Value::Tuple(items) => Ok(items),
            _ => bad("its pickle has another value where a tuple belongs"),
        }
    }

    fn sizes(&self, id: Id) -> Parsed<Vec<usize>> {
        let number = |id: &Id| match self.value(*id) {
            Value::Int(value) => size(*value),
            _ => bad("a shape has a value that is not a number"),
        };
        match self.tuple(id)? {
            axes if axes.len() <= MOST_AXES => axes.iter().map(number).collect(),
            axes => bad(format!("a tensor has {} axes, expected at most {MOST_AXES}", axes.len())),
        }
    }
}

fn size(value: i64) -> Parsed<usize> {
    usize::try_from(value).or_else(|_| bad(format!("a size in its pickle is {value}")))
}

/// A long integer; the first pickle of old files contains one that is too long to be a count.
fn long(reader: &mut Reader<'_>) -> Parsed<Value> {
    let length = reader.number(1)? as usize;
    let bytes = reader.take(length)?;
    let Some(negative) = bytes.last().map(|byte| byte & 0x80 != 0) else { return Ok(Value::Int(0)) };
    if length > 8 {
        return Ok(Value::Other);
    }
    let fill = if negative { -1 } else { 0 };
    Ok(Value::Int(bytes.iter().rev().fold(fill, |value, byte| value << 8 | i64::from(*byte))))
}

fn skip(reader: &mut Reader<'_>, width: usize) -> Parsed<Value> {
    let length = reader.number(width)?;
    reader.take(usize::try_from(length).unwrap_or(usize::MAX)).map(|_| Value::Other)
}

fn pairs(items: &[Id]) -> Parsed<Vec<(Id, Id)>> {
    let (pairs, rest) = items.as_chunks::<2>();
    if !rest.is_empty() {
        return bad("a key in its pickle has no value");
    }
    Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
}
