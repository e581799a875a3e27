//! Matrices of layers, decoded when a product needs them.

use std::{fmt, ops::Range, sync::Arc};

use candle_core::{DType, Device, Result as TensorResult, Tensor};

use super::{Found, TensorSet, WeightDtype, Weights};
use crate::{
    CheckpointError,
    adapter::{self, Beside},
    decode::{LARGEST_BLOCK, decode},
    header::TensorInfo,
    number::NumberFormat,
    upload::Uploads,
};

/// The weight of a layer.
#[derive(Clone, Debug)]
pub enum Matrix {
    /// Floats.
    Plain(Tensor),
    /// Codes that stay in the mapped file.
    Coded(CodedMatrix),
}

/// A matrix `[rows, columns]` whose values are decoded row by row, whenever they are needed: a model takes no
/// more memory than its file, and pages that are not being read need none. This is so on the CPU; for another
/// device, [`Self::on_device`] takes the codes there.
///
/// Adapters are beside it: their factors continue the rows, so that `W x + up (down x)` is one product with
/// `x` followed by `down x`, see [`Self::down`].
#[derive(Clone)]
pub struct CodedMatrix {
    set: Arc<TensorSet>,
    file: usize,
    info: TensorInfo,
    /// The columns that are part of it.
    columns: Range<usize>,
    beside: Option<Arc<Beside>>,
}

impl fmt::Debug for CodedMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape = [self.rows(), self.columns()];
        f.debug_struct("CodedMatrix")
            .field("shape", &shape)
            .field("format", &self.info.format)
            .finish_non_exhaustive()
    }
}

impl Weights {
    /// A matrix of exactly this shape: as coded if it is stored so and the policy is to keep it, else as
    /// [`Self::get`] gives it.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn matrix(&self, name: &str, shape: [usize; 2]) -> Result<Matrix, CheckpointError> {
        let Found { name: full, info, changes, .. } = self.find(name, &shape)?;
        let kept = !matches!(self.set.dtype, WeightDtype::Cast(_));
        let [_, columns] = shape;
        // A tensor that was stored in another shape may have blocks that reach from one row into the next.
        let in_rows = info.format.is_coded() && columns.is_multiple_of(info.format.block().0);
        if !(kept && in_rows && changes.iter().all(adapter::Change::is_pair)) {
            return self.get(name, &shape).map(Matrix::Plain);
        }
        let beside =
            (!changes.is_empty()).then(|| adapter::beside(changes, &full)).transpose()?.map(Arc::new);
        let file = self.set.tensors.get(&full).map_or(0, |located| located.file);
        let set = Arc::clone(&self.set);
        Ok(Matrix::Coded(CodedMatrix { set, file, info, columns: 0..columns, beside }))
    }
}

impl Matrix {
    /// The device that it is on.
    pub fn device(&self) -> &Device {
        match self {
            Self::Plain(tensor) => tensor.device(),
            Self::Coded(matrix) => matrix.device(),
        }
    }

    /// Some rows in f32, `[ids, columns]`: only these are widened or decoded.
    pub fn select(&self, ids: Vec<u32>) -> TensorResult<Tensor> {
        match self {
            Self::Coded(matrix) => matrix.select(&ids)?.to_device(matrix.device()),
            Self::Plain(tensor) => {
                let ids = Tensor::from_vec(ids.clone(), ids.len(), tensor.device())?;
                tensor.index_select(&ids, 0)?.to_dtype(DType::F32)
            }
        }
    }

    /// Some of its columns.
    pub fn narrow_columns(&self, start: usize, length: usize) -> TensorResult<Self> {
        match self {
            Self::Coded(matrix) => matrix.narrow_columns(start, length).map(Self::Coded),
            Self::Plain(tensor) => Ok(Self::Plain(tensor.narrow(1, start, length)?.contiguous()?)),
        }
    }
}

impl CodedMatrix {
    /// The device that its weights are for. The codes are in the file.
    pub fn device(&self) -> &Device {
        self.uploads().device()
    }

    pub(super) fn uploads(&self) -> &Uploads {
        &self.set.uploads
    }

    pub(super) fn format(&self) -> NumberFormat {
        self.info.format
    }

    /// The scales of its rows, or of all.
    pub(super) fn scales(&self) -> Option<Vec<f32>> {
        let scale = self.info.scale.as_ref()?;
        let rows = if scale.values().len() == 1 { 1 } else { self.rows() };
        Some((0..rows).map(|row| scale.at(self.stored_row(row))).collect())
    }

    /// What adapters beside it multiply by, f32 on a device: `[rank, inputs]` and `[rows, rank]`.
    pub(super) fn beside_on(&self, device: &Device) -> TensorResult<Option<(Tensor, Tensor)>> {
        let Some(beside) = &self.beside else { return Ok(None) };
        let up = beside.up(device)?;
        Ok(Some((beside.down.to_device(device)?, up)))
    }

    /// The codes of its columns, row by row; `None` if a block has columns of others too.
    pub(super) fn packed(&self) -> Option<Vec<u8>> {
        let (values, bytes) = self.info.format.block();
        let width = self.info.shape.last().copied()?;
        let whole = [width, self.columns.start, self.columns.end];
        if !whole.into_iter().all(|place| place.is_multiple_of(values)) {
            return None;
        }
        let [stride, start, end] = whole.map(|place| place / values * bytes);
        let data = self.set.files.get(self.file)?.blob.bytes().get(self.info.range.clone())?;
        let mut packed = Vec::with_capacity(self.rows() * (end - start));
        for row in 0..self.rows() {
            let from = self.stored_row(row) * stride;
            packed.extend_from_slice(data.get(from + start..from + end)?);
        }
        Some(packed)
    }

    /// Where a row is in the file: where the halves are swapped, the first row comes from the middle.
    fn stored_row(&self, row: usize) -> usize {
        let rows = self.rows();
        if self.info.swapped { (row + rows / 2) % rows.max(1) } else { row }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.info.shape.first().copied().unwrap_or_default()
    }

    /// Channels of an input: values of a row, those of adapters not counted.
    pub fn inputs(&self) -> usize {
        self.columns.len()
    }

    /// Values of a row, those of adapters included.
    pub fn columns(&self) -> usize {
        self.columns.len() + self.rank()
    }

    /// Values of a row that adapters add.
    fn rank(&self) -> usize {
        self.beside.as_ref().map_or(0, |beside| beside.rank())
    }

    /// What the adapters beside it multiply an input by, f32 `[rank, columns]`; the results follow the input
    /// in a product.
    pub fn down(&self) -> Option<&Tensor> {
        self.beside.as_ref().map(|beside| &beside.down)
    }

    fn narrow_columns(&self, start: usize, length: usize) -> TensorResult<Self> {
        if start + length > self.columns.len() {
            candle_core::bail!("columns {start} to {} of {}", start + length, self.columns.len());
        }
        let beside = match &self.beside {
            Some(beside) => Some(Arc::new(beside.narrow(start, length)?)),
            None => None,
        };
        let start = self.columns.start + start;
        Ok(Self { columns: start..start + length, beside, ..self.clone() })
    }

    /// Decodes part of a row, from value `start` on.
    pub fn decode(&self, row: usize, start: usize, out: &mut [f32]) {
        let own = self.columns.len().saturating_sub(start).min(out.len());
        let (weight, added) = out.split_at_mut(own);
        self.decode_weight(row, self.columns.start + start, weight);
        if let (Some(beside), false) = (&self.beside, added.is_empty()) {
            beside.copy(row, (start + own).saturating_sub(self.columns.len()), added);
        }
    }

    fn decode_weight(&self, row: usize, mut start: usize, mut out: &mut [f32]) {
        let TensorInfo { format, shape, range, scale, .. } = &self.info;
        let width = shape.last().copied().unwrap_or_default();
        let row = self.stored_row(row);
        let (values, bytes) = format.block();
        let stride = width / values * bytes;
        let file = self.set.files.get(self.file).map(|file| file.blob.bytes()).unwrap_or_default();
        let data =
            file.get(range.start + row * stride..).and_then(|data| data.get(..stride)).unwrap_or_default();
        let scale = scale.as_ref().map(|scale| scale.at(row));
        while !out.is_empty() {
            let (block, inside) = (start / values, start % values);
            let from = data.get(block * bytes..).unwrap_or_default();
            let whole = if inside == 0 { out.len() / values * values } else { 0 };
            let taken = if whole > 0 {
                decode(*format, from, out.split_at_mut(whole).0);
                whole
            } else {
                let mut all = [0f32; LARGEST_BLOCK];
                decode(*format, from, &mut all[..values]);
                let taken = out.len().min(values - inside);
                out[..taken].copy_from_slice(&all[inside..inside + taken]);
                taken
            };
            let (done, rest) = out.split_at_mut(taken);
            if let Some(scale) = scale {
                done.iter_mut().for_each(|value| *value *= scale);
            }
            (out, start) = (rest, start + taken);
        }
    }

    fn select(&self, rows: &[u32]) -> TensorResult<Tensor> {
        let columns = self.columns();
        let mut values = vec![0.0; rows.len() * columns];
        for (row, out) in rows.iter().zip(values.chunks_exact_mut(columns.max(1))) {
            self.decode(*row as usize, 0, out);
        }
        Tensor::from_vec(values, (rows.len(), columns), &Device::Cpu)
    }

    /// All of it, decoded on the CPU: f32 `[rows, columns]`, what adapters add included.
    pub fn to_tensor(&self) -> TensorResult<Tensor> {
        self.select(&(0..self.rows() as u32).collect::<Vec<_>>())
    }
}
