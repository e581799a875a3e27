//! From views of storages to byte ranges of a file.

use std::{collections::BTreeMap, ops::Range};

use super::{Parsed, bad, pickle::StoredTensor};
use crate::header::TensorInfo;

/// Where each tensor lies in the file; `storage` returns the bytes of a storage.
pub(super) fn locate(
    tensors: BTreeMap<String, StoredTensor>,
    storage: impl Fn(&str) -> Parsed<Range<usize>>,
) -> Parsed<BTreeMap<String, TensorInfo>> {
    let mut located = BTreeMap::new();
    for (name, tensor) in tensors {
        let bytes = storage(&tensor.storage.key)?;
        let Some(info) = view(&tensor, bytes.clone()) else {
            let StoredTensor { storage, dtype, offset, shape, strides } = &tensor;
            return bad(format!(
                "tensor \"{name}\" ({dtype} {shape:?}, strides {strides:?}, from {offset}) does not fit storage \"{}\" \
                 of {} bytes",
                storage.key,
                bytes.len()
            ));
        };
        located.insert(name, info);
    }
    Ok(located)
}

/// `None` if the tensor reaches beyond its storage or has more elements than the storage (repeated by a
/// stride of 0).
fn view(tensor: &StoredTensor, bytes: Range<usize>) -> Option<TensorInfo> {
    let bits = tensor.dtype.bitsize();
    let width = bits.is_multiple_of(8).then_some(bits / 8)?;
    let length = bytes.len() / width;
    let stated = tensor.storage.dtype.map_or(1, |dtype| dtype.bitsize() / 8);
    if tensor.storage.length.checked_mul(stated)? > bytes.len() {
        return None;
    }
    let elements = tensor.shape.iter().try_fold(1usize, |product, n| product.checked_mul(*n))?;
    let reach = if elements == 0 {
        0
    } else {
        let axes = tensor.shape.iter().zip(&tensor.strides);
        let last = axes
            .clone()
            .try_fold(0usize, |last, (n, stride)| last.checked_add((n - 1).checked_mul(*stride)?))?;
        last.checked_add(1)?
    };
    if elements > length || tensor.offset.checked_add(reach)? > length {
        return None;
    }
    let start = bytes.start + tensor.offset * width;
    Some(TensorInfo {
        strides: (!contiguous(&tensor.shape, &tensor.strides)).then(|| tensor.strides.clone()),
        ..TensorInfo::new(tensor.dtype.into(), tensor.shape.clone(), start..start + reach * width)
    })
}

/// Whether the elements are contiguous; the stride of an axis of length 1 does not matter.
fn contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1usize;
    shape.contains(&0)
        || shape.iter().zip(strides).rev().all(|(n, stride)| {
            let fits = *n == 1 || *stride == expected;
            expected = expected.saturating_mul(*n);
            fits
        })
}
