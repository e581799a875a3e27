//! The right side of a product in the order in which the kernel reads it.

use candle_core::{CpuStorage, Result, backend::BackendStorage};
use half::{bf16, f16, slice::HalfFloatSliceExt};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::cpu::Held;

/// Registers across a panel. With the rows of a tile of the kernel, that leaves two or three of the sixteen
/// registers of AVX2, or of the thirty-two that come with 16 lanes, for the factors; each value of a row is
/// loaded once for all of them.
pub(super) const fn across(lanes: usize) -> usize {
    if lanes >= 16 { WIDE } else { NARROW }
}

pub(super) const NARROW: usize = 2;
pub(super) const WIDE: usize = 4;

/// Columns of a panel on this machine.
fn width() -> usize {
    struct Width;
    impl WithSimd for Width {
        type Output = usize;
        fn with_simd<S: Simd>(self, _: S) -> usize {
            across(S::F32_LANES) * S::F32_LANES
        }
    }
    Arch::new().dispatch(Width)
}

/// Maximum inner values per block. A panel of a block stays in a core's L2 cache; with longer blocks the
/// result so far is loaded and stored less often.
const DEPTH: usize = 768;

/// Maximum rows per task. Every task reads the whole weight, and its rows once per panel: a block of them
/// should fit in the L2 cache too.
const TASK_ROWS: usize = 144;

/// How much longer a block and a task may be with panels of this width: the wider they are, the less often
/// rows are read, which may then come from the L3 cache.
const fn times(width: usize) -> usize {
    if width < 64 { 1 } else { 2 }
}

/// Values of a weight that stays in the L2 cache, so that reading it for each task is free.
const SMALL: usize = 1 << 16;

/// Maximum rows per task with such a weight.
const FEW_ROWS: usize = 48;

/// Values in a cache line.
const LINE: usize = 16;

/// The source of a matrix.
#[derive(Clone, Copy)]
pub(crate) enum Values<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    BF16(&'a [bf16]),
}

impl<'a> Values<'a> {
    /// The values of a contiguous tensor of floats on the CPU.
    pub(crate) fn of(weight: &'a Held<'_>) -> Result<Self> {
        let layout = weight.layout;
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!(
                "a weight of shape {:?} by {:?} is not contiguous",
                layout.dims(),
                layout.stride()
            )
        };
        let storage = weight.storage()?;
        match storage {
            CpuStorage::F32(values) => values.get(start..end).map(Self::F32),
            CpuStorage::F16(values) => values.get(start..end).map(Self::F16),
            CpuStorage::BF16(values) => values.get(start..end).map(Self::BF16),
            _ => candle_core::bail!("a weight of {:?}, expected floats", storage.dtype()),
        }
        .ok_or_else(|| candle_core::Error::msg("the layout of a weight exceeds its storage"))
    }

    /// The values from `start` on.
    pub(crate) fn from(self, start: usize) -> Self {
        match self {
            Self::F32(values) => Self::F32(&values[start..]),
            Self::F16(values) => Self::F16(&values[start..]),
            Self::BF16(values) => Self::BF16(&values[start..]),
        }
    }

    fn copy(self, start: usize, to: &mut [f32]) {
        match self {
            Self::F32(values) => to.copy_from_slice(&values[start..][..to.len()]),
            Self::F16(values) => values[start..][..to.len()].convert_to_f32_slice(to),
            Self::BF16(values) => values[start..][..to.len()].convert_to_f32_slice(to),
        }
    }
}

/// Matrices of at least this many values are filled by all cores.
const TASK: usize = 1 << 16;

/// A matrix `[inputs, outputs]`, cut along the inputs into blocks and along the outputs into panels; the last
/// panel is padded with columns of zeros.
#[derive(Debug)]
pub(crate) struct Panels {
    /// Blocks of panels, starting at the first whole cache line: a load that straddles two lines takes twice
    /// as long.
    values: Vec<f32>,
    begin: usize,
    inputs: usize,
    outputs: usize,
    /// Inputs per block.
    depth: usize,
    /// Columns per panel.
    width: usize,
}

impl Panels {
    /// From the columns of the matrix, each starting `stride` values after the one before.
    pub(crate) fn from_columns(columns: Values<'_>, stride: usize, inputs: usize, outputs: usize) -> Self {
        Self::of_width(width(), columns, stride, inputs, outputs)
    }

    /// The same in panels of another width than this machine's.
    pub(super) fn of_width(
        width: usize,
        columns: Values<'_>,
        stride: usize,
        inputs: usize,
        outputs: usize,
    ) -> Self {
        Self::by_column(width, inputs, outputs, |column, start, to| columns.copy(column * stride + start, to))
    }

    /// From the columns of the matrix, where `copy(column, start, to)` gives the values of a column from
    /// `start` on.
    pub(crate) fn of_columns(
        inputs: usize,
        outputs: usize,
        copy: impl Fn(usize, usize, &mut [f32]) + Sync,
    ) -> Self {
        Self::by_column(width(), inputs, outputs, copy)
    }

    fn by_column(
        width: usize,
        inputs: usize,
        outputs: usize,
        copy: impl Fn(usize, usize, &mut [f32]) + Sync,
    ) -> Self {
        Self::filled(width, inputs, outputs, |start, first, panel| {
            let (depth, last) = (panel.len() / width, outputs.min(first + width));
            let mut values = vec![[0f32; 2 * DEPTH]; LINE];
            // Some columns at a time, so that whole lines of the panel are written.
            for group in (first..last).step_by(LINE) {
                for (column, values) in (group..last).zip(&mut values) {
                    copy(column, start, &mut values[..depth]);
                }
                for (i, row) in panel.chunks_exact_mut(width).enumerate() {
                    for (value, column) in row[group - first..].iter_mut().zip(&values).take(last - group) {
                        *value = column[i];
                    }
                }
            }
        })
    }

    /// From the rows of the matrix, each starting `stride` values after the one before.
    pub(crate) fn from_rows(rows: Values<'_>, stride: usize, inputs: usize, outputs: usize) -> Self {
        let width = width();
        Self::filled(width, inputs, outputs, |start, first, panel| {
            let taken = width.min(outputs - first);
            for (row, panel) in panel.chunks_exact_mut(width).enumerate() {
                rows.copy((start + row) * stride + first, &mut panel[..taken]);
            }
        })
    }

    /// `fill(start, first, panel)` fills the panel of the inputs from `start` on and the outputs from `first`
    /// on.
    fn filled(
        width: usize,
        inputs: usize,
        outputs: usize,
        fill: impl Fn(usize, usize, &mut [f32]) + Sync,
    ) -> Self {
        let mut panels = Self::zeros(width, inputs, outputs);
        if inputs * outputs < TASK {
            panels.panels_mut().for_each(|(start, first, panel)| fill(start, first, panel));
        } else {
            let all: Vec<_> = panels.panels_mut().collect();
            all.into_par_iter().for_each(|(start, first, panel)| fill(start, first, panel));
        }
        panels
    }

    fn zeros(width: usize, inputs: usize, outputs: usize) -> Self {
        // Blocks of equal length, because the loop overhead of a short one is that of a long one.
        let blocks = inputs.div_ceil(times(width) * DEPTH).max(1);
        let depth = inputs.div_ceil(blocks).next_multiple_of(width);
        let values = vec![0.0; inputs * outputs.next_multiple_of(width) + LINE];
        let begin = values.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        Self { values, begin, inputs, outputs, depth, width }
    }

    /// Every panel with the index of its first input and output.
    fn panels_mut(&mut self) -> impl Iterator<Item = (usize, usize, &mut [f32])> {
        let Self { inputs, depth, width, begin, .. } = *self;
        let padded = self.outputs.next_multiple_of(width);
        let blocks = self.values[begin..][..inputs * padded].chunks_mut((depth * padded).max(1)).enumerate();
        blocks.flat_map(move |(block, values)| {
            let start = block * depth;
            let panels = values.chunks_mut(depth.min(inputs - start) * width).enumerate();
            panels.map(move |(panel, values)| (start, panel * width, values))
        })
    }

    /// Rows of the matrix.
    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Columns of the matrix.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Columns per panel.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Inputs per block.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// Maximum rows per task.
    pub(crate) fn rows_per_task(&self) -> usize {
        if self.inputs * self.outputs <= SMALL { FEW_ROWS } else { times(self.width) * TASK_ROWS }
    }

    /// The panel of the inputs from `start` on, a multiple of the depth, and the outputs from `first` on, a
    /// multiple of the width.
    pub(super) fn panel(&self, start: usize, first: usize) -> &[f32] {
        let depth = self.depth.min(self.inputs - start);
        &self.values[self.begin + start * self.outputs.next_multiple_of(self.width) + first * depth..]
            [..depth * self.width]
    }

    /// Columns per task when a single row is multiplied: enough values of the matrix to make waking a core
    /// worthwhile.
    pub(super) fn columns_per_task(&self) -> usize {
        let even = self.outputs.div_ceil(rayon::current_num_threads());
        even.next_multiple_of(self.width)
            .max((TASK / self.inputs.max(1)).next_multiple_of(self.width))
            .max(self.width)
    }
}
