//! How tensors of one layout become tensors of another.

use super::header::TensorInfo;

/// What becomes of a tensor. Values are neither changed nor copied; only where and in which order they are
/// read changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mapped {
    /// The tensor under this name.
    Same(String),
    /// The tensor without its leading axes of length 1, under this name.
    Squeezed(String),
    /// The kernel of one pixel, `[out, in, 1, ..]`, as the matrix `[out, in]`; other tensors unchanged.
    Matrix(String),
    /// Consecutive parts of the first axis, under these names and with these relative sizes.
    Split(Vec<(String, usize)>),
    /// The tensor with the second half of its first axis in front of the first, under this name.
    Swapped(String),
    /// Nothing: the model has no such tensor.
    Omitted,
}

impl Mapped {
    /// Names and positions of the resulting tensors; `None` if the shape does not allow it.
    pub(super) fn apply(self, info: TensorInfo) -> Option<Vec<(String, TensorInfo)>> {
        match self {
            Self::Same(name) => Some(vec![(name, info)]),
            Self::Squeezed(name) => Some(vec![(name, squeezed(info))]),
            Self::Matrix(name) => Some(vec![(name, matrix(info))]),
            Self::Split(shares) => split(&info, shares),
            Self::Swapped(name) => Some(vec![(name, swapped(info)?)]),
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

fn split(info: &TensorInfo, shares: Vec<(String, usize)>) -> Option<Vec<(String, TensorInfo)>> {
    let total: usize = shares.iter().map(|(_, share)| share).sum();
    let rows = *info.shape.first()?;
    let unit = rows.checked_div(total).filter(|unit| unit * total == rows)?;
    let mut start = 0;
    let part = |(name, share): (String, usize)| {
        let part = consecutive(info, start, unit * share)?;
        start += unit * share;
        Some((name, part))
    };
    shares.into_iter().map(part).collect()
}

/// `count` rows starting at row `start`; `None` if the tensor's halves are swapped.
fn consecutive(info: &TensorInfo, start: usize, count: usize) -> Option<TensorInfo> {
    let mut rows = info.clone();
    *rows.shape.first_mut().filter(|_| !info.swapped)? = count;
    let range = &info.range;
    rows.scale = info.scale.as_ref().map(|scale| scale.of_rows(start..start + count));
    rows.range = match info.strides.as_deref() {
        None => {
            let bytes =
                |rows: usize| info.format.bytes(rows * info.shape.get(1..)?.iter().product::<usize>());
            let start = range.start + bytes(start)?;
            start..start + bytes(count)?
        }
        // A view extends from its first row to the end of the whole tensor.
        Some(strides) => {
            let (_, width) = info.format.block();
            (range.start + start * strides.first()? * width).min(range.end)..range.end
        }
    };
    Some(rows)
}

fn swapped(mut info: TensorInfo) -> Option<TensorInfo> {
    info.shape.first().filter(|rows| rows.is_multiple_of(2))?;
    info.swapped = !info.swapped;
    Some(info)
}
