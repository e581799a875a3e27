//! From the bytes of a tensor to a tensor.

use std::ops::Range;

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};

use super::{blob::Blob, decode::decode, header::TensorInfo, number::NumberFormat, upload::Uploads};

/// Bytes copied before their pages are returned to the system: a few milliseconds of work.
const CHUNK: usize = 16 << 20;

/// Bytes that are looked at while they are still in the cache.
const NEAR: usize = 1 << 15;

/// Why a tensor could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The position of the first value, and the value, that is not finite.
    #[error("not finite")]
    NotFinite(usize, f32),
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

type Result<T> = std::result::Result<T, ReadError>;

/// Copies a tensor out of its file as type `wanted`, widening to f32 and decoding while copying. All values
/// must be finite.
pub(super) fn tensor(blob: &Blob, info: &TensorInfo, wanted: DType, to: &Uploads) -> Result<Tensor> {
    let (shape, device) = (info.shape.as_slice(), &Device::Cpu);
    let tensor = match (info.format, wanted) {
        _ if info.scale.is_some() || info.format.is_coded() => {
            Tensor::from_vec(arranged(decoded(blob, info)?, info), shape, device)
        }
        (NumberFormat::F32, _) => Tensor::from_vec(elements(blob, info, f32::from_le_bytes)?, shape, device),
        (NumberFormat::F16, DType::F32) => {
            Tensor::from_vec(elements(blob, info, |b| f16::from_le_bytes(b).to_f32())?, shape, device)
        }
        (NumberFormat::F16, _) => Tensor::from_vec(elements(blob, info, f16::from_le_bytes)?, shape, device),
        (NumberFormat::BF16, DType::F32) => {
            Tensor::from_vec(elements(blob, info, |b| bf16::from_le_bytes(b).to_f32())?, shape, device)
        }
        (NumberFormat::BF16, _) => {
            Tensor::from_vec(elements(blob, info, bf16::from_le_bytes)?, shape, device)
        }
        (other, _) => {
            return Err(candle_core::Error::msg(format!("cannot read tensors of type {other}")).into());
        }
    }?;
    Ok(to.place(&tensor.to_dtype(wanted)?)?)
}

/// Looks at every value of a tensor.
pub(super) fn check(blob: &Blob, info: &TensorInfo) -> Result<()> {
    match info.format {
        _ if info.format.is_coded() => {
            let (values, bytes) = info.format.block();
            let blocks = NEAR / bytes;
            let mut out = vec![0.0; blocks * values];
            let stored = blob.bytes().get(info.range.clone()).unwrap_or_default();
            stored.chunks(blocks * bytes).enumerate().try_for_each(|(i, chunk)| {
                let out = &mut out[..chunk.len() / bytes * values];
                decode_finite(info.format, chunk, out, i * blocks * values)
            })
        }
        NumberFormat::F32 => copied(blob, info.range.clone(), f32::from_le_bytes).map(drop),
        NumberFormat::F16 => copied(blob, info.range.clone(), f16::from_le_bytes).map(drop),
        NumberFormat::BF16 => copied(blob, info.range.clone(), bf16::from_le_bytes).map(drop),
        _ => Ok(()),
    }
}

/// The largest value whose square is finite: no weight is as large, and no product with it ends well.
const LARGEST: f32 = 1.8e19;

/// A value that may be damaged: infinite, no number, or too large.
trait Value: Copy {
    fn finite(self) -> bool;
    fn wide(self) -> f32;
}

impl Value for f32 {
    fn finite(self) -> bool {
        self.abs() <= LARGEST
    }

    fn wide(self) -> f32 {
        self
    }
}

impl Value for f16 {
    fn finite(self) -> bool {
        self.is_finite()
    }

    fn wide(self) -> f32 {
        self.to_f32()
    }
}

impl Value for bf16 {
    fn finite(self) -> bool {
        self.to_f32().abs() <= LARGEST
    }

    fn wide(self) -> f32 {
        self.to_f32()
    }
}

/// Checks values from position `start` on.
fn finite<T: Value>(values: &[T], start: usize) -> Result<()> {
    // Without leaving early, so that whole registers are looked at.
    if values.iter().fold(true, |all, value| all & value.finite()) {
        return Ok(());
    }
    let first = values.iter().enumerate().find(|(_, value)| !value.finite());
    first.map_or(Ok(()), |(i, value)| Err(ReadError::NotFinite(start + i, value.wide())))
}

/// Decodes whole blocks, whose first value has the position `start`.
fn decode_finite(format: NumberFormat, bytes: &[u8], out: &mut [f32], start: usize) -> Result<()> {
    let (values, block) = format.block();
    let blocks = NEAR / block;
    let pieces = bytes.chunks(blocks * block).zip(out.chunks_mut(blocks * values));
    pieces.enumerate().try_for_each(|(i, (bytes, out))| {
        decode(format, bytes, out);
        finite(out, start + i * blocks * values)
    })
}

/// The values of a coded tensor, or of one with a scale, in the order of the file.
fn decoded(blob: &Blob, info: &TensorInfo) -> Result<Vec<f32>> {
    let (values, bytes) = info.format.block();
    let stored = blob.bytes().get(info.range.clone()).unwrap_or_default();
    let mut out = vec![0.0; stored.len() / bytes * values];
    let blocks = CHUNK / bytes;
    let chunks = stored.chunks(blocks * bytes).zip(out.chunks_mut(blocks * values));
    for (i, (chunk, out)) in chunks.enumerate() {
        decode_finite(info.format, chunk, out, i * blocks * values)?;
        let start = info.range.start + i * blocks * bytes;
        blob.release(start..start + chunk.len());
    }
    if let Some(scale) = &info.scale {
        let width = info.values() / info.shape.first().copied().unwrap_or(1).max(1);
        for (row, values) in out.chunks_mut(width.max(1)).enumerate() {
            let scale = scale.at(row);
            values.iter_mut().for_each(|value| *value *= scale);
            finite(values, row * width)?;
        }
    }
    Ok(out)
}

/// The tensor's values in row-major order, whatever their order in the file.
fn elements<const N: usize, T: Value>(
    blob: &Blob,
    info: &TensorInfo,
    value: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>> {
    Ok(arranged(copied(blob, info.range.clone(), value)?, info))
}

/// Values in the order of the file, in row-major order.
fn arranged<T: Copy>(stored: Vec<T>, info: &TensorInfo) -> Vec<T> {
    let mut values = in_line(stored, info);
    if info.swapped {
        let half = values.len() / 2;
        values.rotate_left(half);
    }
    values
}

/// The values of a view in row-major order.
fn in_line<T: Copy>(stored: Vec<T>, info: &TensorInfo) -> Vec<T> {
    let Some(strides) = &info.strides else { return stored };
    let mut offsets = vec![0];
    for (n, stride) in info.shape.iter().zip(strides) {
        offsets = offsets.iter().flat_map(|offset| (0..*n).map(move |i| offset + i * stride)).collect();
    }
    offsets.into_iter().filter_map(|offset| stored.get(offset).copied()).collect()
}

/// Values of `N` bytes each; the file's pages are released after the copy.
fn copied<const N: usize, T: Value>(
    blob: &Blob,
    range: Range<usize>,
    value: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>> {
    let mut values = Vec::with_capacity(range.len() / N);
    let bytes = blob.bytes().get(range.clone()).unwrap_or_default();
    let mut start = range.start;
    for chunk in bytes.chunks(CHUNK) {
        for piece in chunk.chunks(NEAR) {
            let from = values.len();
            values.extend(piece.as_chunks::<N>().0.iter().map(|bytes| value(*bytes)));
            finite(&values[from..], from)?;
        }
        blob.release(start..start + chunk.len());
        start += chunk.len();
    }
    Ok(values)
}
