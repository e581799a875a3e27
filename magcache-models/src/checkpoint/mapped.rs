//! What the tensors of one layout are in another.

use super::header::TensorInfo;

/// What becomes of a tensor. No value changes and nothing is copied: shapes and byte ranges do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mapped {
    /// The tensor under this name.
    Same(String),
    /// The tensor without its leading axes of length 1, under this name.
    Squeezed(String),
    /// The kernel of one pixel, `[out, in, 1, ..]`, as the matrix `[out, in]`; other tensors as they are.
    Matrix(String),
    /// Equal shares of the first axis, under these names.
    Split(Vec<String>),
    /// Nothing: the model has no such tensor.
    Omitted,
}

impl Mapped {
    /// Names and places of what the tensor becomes; `None` when its shape does not allow it.
    pub(super) fn apply(self, info: TensorInfo) -> Option<Vec<(String, TensorInfo)>> {
        match self {
            Self::Same(name) => Some(vec![(name, info)]),
            Self::Squeezed(name) => Some(vec![(name, squeezed(info))]),
            Self::Matrix(name) => Some(vec![(name, matrix(info))]),
            Self::Split(names) => {
                let parts = names.len();
                names.into_iter().enumerate().map(|(i, name)| Some((name, share(&info, i, parts)?))).collect()
            }
            Self::Omitted => Some(Vec::new()),
        }
    }
}

fn squeezed(mut info: TensorInfo) -> TensorInfo {
    let axes = info.shape.iter().take_while(|n| **n == 1).count();
    info.shape.drain(..axes);
    if let Some(strides) = &mut info.strides {
        strides.drain(..axes);
    }
    info
}

fn matrix(mut info: TensorInfo) -> TensorInfo {
    let axes = info.shape.iter().rposition(|n| *n != 1).map_or(0, |last| last + 1).max(2);
    info.shape.truncate(axes);
    if let Some(strides) = &mut info.strides {
        strides.truncate(axes);
    }
    info
}

fn share(info: &TensorInfo, part: usize, parts: usize) -> Option<TensorInfo> {
    let mut shape = info.shape.clone();
    let rows = shape.first_mut().filter(|rows| rows.is_multiple_of(parts))?;
    *rows /= parts;
    let (rows, width) = (*rows, info.dtype.bitsize() / 8);
    let mut share = TensorInfo { shape, ..info.clone() };
    let range = &info.range;
    share.range = match info.strides.as_deref() {
        None => {
            let start = range.start + part * share.bytes();
            start..start + share.bytes()
        }
        // A view reaches from its first row to the end of the whole.
        Some(strides) => (range.start + part * rows * strides.first()? * width).min(range.end)..range.end,
    };
    Some(share)
}
