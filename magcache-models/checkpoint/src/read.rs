//! From the bytes of a tensor to a tensor.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor};
use half::{bf16, f16};
use safetensors::Dtype;

use super::{blob::Blob, header::TensorInfo};

/// Bytes copied before their pages are returned to the system: a few milliseconds of work.
const CHUNK: usize = 16 << 20;

/// The candle type of a stored type, if we compute with it.
pub(super) fn supported(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        _ => None,
    }
}

/// Copies a tensor of a [`supported`] type out of its file as type `wanted`, widening to f32 while copying.
pub(super) fn tensor(blob: &Blob, info: &TensorInfo, wanted: DType, device: &Device) -> Result<Tensor> {
    let shape = info.shape.as_slice();
    let tensor = match (info.dtype, wanted) {
        (Dtype::F32, _) => Tensor::from_vec(elements(blob, info, f32::from_le_bytes), shape, device),
        (Dtype::F16, DType::F32) => {
            Tensor::from_vec(elements(blob, info, |b| f16::from_le_bytes(b).to_f32()), shape, device)
        }
        (Dtype::F16, _) => Tensor::from_vec(elements(blob, info, f16::from_le_bytes), shape, device),
        (Dtype::BF16, DType::F32) => {
            Tensor::from_vec(elements(blob, info, |b| bf16::from_le_bytes(b).to_f32()), shape, device)
        }
        (Dtype::BF16, _) => Tensor::from_vec(elements(blob, info, bf16::from_le_bytes), shape, device),
        (other, _) => candle_core::bail!("cannot read tensors of type {other}"),
    }?;
    tensor.to_dtype(wanted)
}

/// The tensor's values in row-major order, whatever their order in the file.
fn elements<const N: usize, T: Copy>(blob: &Blob, info: &TensorInfo, value: impl Fn([u8; N]) -> T) -> Vec<T> {
    let mut values = in_line(copied(blob, info.range.clone(), value), info);
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
