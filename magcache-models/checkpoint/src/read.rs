//! From the bytes of a tensor to a tensor.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor};
use half::{bf16, f16};

use super::{blob::Blob, decode::decode, header::TensorInfo, number::NumberFormat};

/// Bytes copied before their pages are returned to the system: a few milliseconds of work.
const CHUNK: usize = 16 << 20;

/// Copies a tensor out of its file as type `wanted`, widening to f32 and decoding while copying.
pub(super) fn tensor(blob: &Blob, info: &TensorInfo, wanted: DType, device: &Device) -> Result<Tensor> {
    let shape = info.shape.as_slice();
    let tensor = match (info.format, wanted) {
        _ if info.scale.is_some() || info.format.is_coded() => {
            Tensor::from_vec(arranged(decoded(blob, info), info), shape, device)
        }
        (NumberFormat::F32, _) => Tensor::from_vec(elements(blob, info, f32::from_le_bytes), shape, device),
        (NumberFormat::F16, DType::F32) => {
            Tensor::from_vec(elements(blob, info, |b| f16::from_le_bytes(b).to_f32()), shape, device)
        }
        (NumberFormat::F16, _) => Tensor::from_vec(elements(blob, info, f16::from_le_bytes), shape, device),
        (NumberFormat::BF16, DType::F32) => {
            Tensor::from_vec(elements(blob, info, |b| bf16::from_le_bytes(b).to_f32()), shape, device)
        }
        (NumberFormat::BF16, _) => Tensor::from_vec(elements(blob, info, bf16::from_le_bytes), shape, device),
        (other, _) => candle_core::bail!("cannot read tensors of type {other}"),
    }?;
    tensor.to_dtype(wanted)
}

/// The values of a coded tensor, or of one with a scale, in the order of the file.
fn decoded(blob: &Blob, info: &TensorInfo) -> Vec<f32> {
    let (values, bytes) = info.format.block();
    let stored = blob.bytes().get(info.range.clone()).unwrap_or_default();
    let mut out = vec![0.0; stored.len() / bytes * values];
    let blocks = CHUNK / bytes;
    let chunks = stored.chunks(blocks * bytes).zip(out.chunks_mut(blocks * values));
    for (i, (chunk, out)) in chunks.enumerate() {
        decode(info.format, chunk, out);
        let start = info.range.start + i * blocks * bytes;
        blob.release(start..start + chunk.len());
    }
    if let Some(scale) = &info.scale {
        let width = info.values() / info.shape.first().copied().unwrap_or(1).max(1);
        for (row, values) in out.chunks_mut(width.max(1)).enumerate() {
            let scale = scale.at(row);
            values.iter_mut().for_each(|value| *value *= scale);
        }
    }
    out
}

/// The tensor's values in row-major order, whatever their order in the file.
fn elements<const N: usize, T: Copy>(blob: &Blob, info: &TensorInfo, value: impl Fn([u8; N]) -> T) -> Vec<T> {
    arranged(copied(blob, info.range.clone(), value), info)
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
fn copied<const N: usize, T>(blob: &Blob, range: Range<usize>, value: impl Fn([u8; N]) -> T) -> Vec<T> {
    let mut values = Vec::with_capacity(range.len() / N);
    let bytes = blob.bytes().get(range.clone()).unwrap_or_default();
    let mut start = range.start;
    for chunk in bytes.chunks(CHUNK) {
        values.extend(chunk.as_chunks::<N>().0.iter().map(|bytes| value(*bytes)));
        blob.release(start..start + chunk.len());
        start += chunk.len();
    }
    values
}
