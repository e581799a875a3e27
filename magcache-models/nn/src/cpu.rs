//! What the CPU kernels share: slices of tensors, dispatch on the vector width, a vectorisable exponential.

use std::ops::Deref;

use candle_core::{CpuStorage, DType, Layout, Result, Shape, Storage, Tensor};
use magcache_checkpoint::Ops;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::share::share;

/// Values per piece of an element-wise kernel, one to a few microseconds.
pub(crate) const PIECE: usize = 1 << 13;

/// Independent partial results of a reduction; wide enough for every vector register.
const LANES: usize = 16;

/// Whether the kernels of this crate apply.
pub(crate) fn on_cpu(ops: Ops, x: &Tensor) -> bool {
    ops == Ops::Kernels && x.device().is_cpu() && x.dtype() == DType::F32
}

/// Rows of `channels` values per piece.
pub(crate) fn rows_per_piece(channels: usize) -> usize {
    (PIECE / channels.max(1)).max(1)
}

/// The values of a contiguous f32 tensor.
pub(crate) fn contiguous<'a>(op: &str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!(
            "{op}: expected a contiguous tensor, got shape {:?} by {:?}",
            layout.dims(),
            layout.stride()
        )
    };
    match storage.as_slice::<f32>()?.get(start..end) {
        Some(values) => Ok(values),
        None => candle_core::bail!("{op}: the layout of shape {:?} exceeds its storage", layout.dims()),
    }
}

/// A tensor whose values are being read.
pub(crate) struct Held<'a> {
    /// A guard, whose type candle does not export.
    storage: Box<dyn Deref<Target = Storage> + 'a>,
    pub(crate) layout: &'a Layout,
    /// Who reads it, for messages.
    pub(crate) op: &'static str,
}

impl<'a> Held<'a> {
    pub(crate) fn new(op: &'static str, x: &'a Tensor) -> Self {
        let (storage, layout) = x.storage_and_layout();
        Self { storage: Box::new(storage), layout, op }
    }

    pub(crate) fn storage(&self) -> Result<&CpuStorage> {
        match &**self.storage {
            Storage::Cpu(storage) => Ok(storage),
            _ => candle_core::bail!("{}: a tensor is not on the CPU", self.op),
        }
    }

    /// The values of a contiguous f32 tensor.
    pub(crate) fn values(&self) -> Result<&[f32]> {
        contiguous(self.op, self.storage()?, self.layout)
    }

    /// The same for a tensor of this shape.
    pub(crate) fn shaped(&self, shape: &[usize]) -> Result<&[f32]> {
        if self.layout.dims() != shape {
            candle_core::bail!("{}: got {:?}, expected {shape:?}", self.op, self.layout.dims());
        }
        self.values()
    }

    /// A value for each of `channels` channels.
    pub(crate) fn per_channel(&self, channels: usize) -> Result<&[f32]> {
        let values = self.values()?;
        if values.len() != channels {
            candle_core::bail!("{}: {} weights for {channels} channels", self.op, values.len());
        }
        Ok(values)
    }
}

/// A tensor of `shape` from the values of `x`.
pub(crate) fn compute(
    op: &'static str,
    x: &Tensor,
    shape: impl Into<Shape>,
    values: impl FnOnce(&[f32]) -> Vec<f32>,
) -> Result<Tensor> {
    let x = x.contiguous()?;
    let out = values(Held::new(op, &x).values()?);
    Tensor::from_vec(out, shape.into(), x.device())
}

/// [`by_row`] for the rows of the last axis of `x`, which keep their width.
pub(crate) fn each_row(op: &'static str, x: &Tensor, kernel: &impl RowKernel) -> Result<Tensor> {
    let channels = last_axis(x);
    compute(op, x, x.shape(), |x| by_row(x, channels, channels, kernel))
}

/// Length of the last axis.
pub(crate) fn last_axis(x: &Tensor) -> usize {
    x.dims().last().copied().unwrap_or(1)
}

/// `len` zeros, written by all cores: one core alone would take longer than all of them take to overwrite the
/// zeros.
pub(crate) fn zeros(len: usize) -> Vec<f32> {
    const LINE: usize = 16;
    const FEW: usize = 1 << 18;
    if len < FEW {
        return vec![0.0; len];
    }
    let mut lines = Vec::with_capacity(len.div_ceil(LINE));
    lines.par_extend(rayon::iter::repeat_n([0f32; LINE], len / LINE));
    let mut values = lines.into_flattened();
    values.resize(len, 0.0);
    values
}

/// The work on one row.
///
/// Implementations are `#[inline(always)]`, and so is everything they call: a function that is not inlined is
/// compiled without the vector instructions of its caller.
pub(crate) trait RowKernel: Sync {
    /// Computes `out` from `x`, which is row `index`.
    fn row<S: Simd>(&self, simd: S, index: usize, out: &mut [f32], x: &[f32]);

    /// The same for several rows of `width` values, starting with row `first`: for kernels that can work on
    /// one row while another waits.
    #[inline(always)]
    fn rows<S: Simd>(
        &self,
        simd: S,
        first: usize,
        out: &mut [f32],
        out_width: usize,
        x: &[f32],
        width: usize,
    ) {
        let rows = out.chunks_exact_mut(out_width).zip(x.chunks_exact(width));
        for (i, (out, x)) in rows.enumerate() {
            self.row(simd, first + i, out, x);
        }
    }
}

/// Rows of `out_width` values from rows of `width`, on all cores with the widest vector instructions.
pub(crate) fn by_row(x: &[f32], width: usize, out_width: usize, kernel: &impl RowKernel) -> Vec<f32> {
    let (width, out_width) = (width.max(1), out_width.max(1));
    let mut out = zeros(x.len() / width * out_width);
    let rows = rows_per_piece(width);
    let pieces = out.chunks_mut(rows * out_width).zip(x.chunks(rows * width)).enumerate();
    share(pieces, |(piece, (out, x))| rows_here(kernel, piece * rows, out, out_width, x, width));
    out
}

/// One result per value: `kernel` sees pieces of [`PIECE`] values as rows, and the remainder as the last row.
pub(crate) fn by_value(x: &[f32], kernel: &impl RowKernel) -> Vec<f32> {
    let mut out = zeros(x.len());
    share(out.chunks_mut(PIECE).zip(x.chunks(PIECE)).enumerate(), |(piece, (out, x))| {
        let (width, out_width) = (x.len(), out.len());
        rows_here(kernel, piece, out, out_width, x, width);
    });
    out
}

/// Rows of `width` values to rows of `out_width` on this core; `x` begins with row `first`.
pub(crate) fn rows_here(
    kernel: &impl RowKernel,
    first: usize,
    out: &mut [f32],
    out_width: usize,
    x: &[f32],
    width: usize,
) {
    pulp::Arch::new().dispatch(Task { kernel, first, out, out_width, x, width });
}

/// Some rows on one core.
struct Task<'a, K> {
    kernel: &'a K,
    first: usize,
    out: &'a mut [f32],
    out_width: usize,
    x: &'a [f32],
    width: usize,
}

impl<K: RowKernel> WithSimd for Task<'_, K> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { kernel, first, out, out_width, x, width } = self;
        kernel.rows(simd, first, out, out_width, x, width);
    }
}

/// `e^x` to 2e-7 relative for `x` in -87..=88, clamped to the ends outside of it, NaN for NaN.
///
/// Cody-Waite reduction to `2^n e^r` with `|r| <= ln 2 / 2` and the polynomial of the Cephes library. `n` is
/// read from the low bits of a float near `1.5 * 2^23`, because a conversion to integers would not vectorise
/// as well; it is biased by 127, so that these bits are the exponent of `2^n`.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0 + 127.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_4, x));
    let p = r.mul_add(1.987_569_1e-4, 1.398_2e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_6e-1);
    let p = p.mul_add(r, 0.5);
    let y = p.mul_add(r * r, r) + 1.0;
    // A product, not a sum of bits: NaN stays NaN whatever its low bits are.
    y * f32::from_bits(shifted.to_bits() << 23)
}

/// `x * sigmoid(x)`.
#[inline(always)]
pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// Σ x over a row.
#[inline(always)]
pub(crate) fn sum<S: Simd>(simd: S, row: &[f32]) -> f32 {
    let total = sum_registers(simd, row, |sum, x| simd.add_f32s(sum, x));
    total + S::as_simd_f32s(row).1.iter().sum::<f32>()
}

/// Σ (x - centre)² over a row.
#[inline(always)]
pub(crate) fn sum_of_squares<S: Simd>(simd: S, row: &[f32], centre: f32) -> f32 {
    let around = simd.splat_f32s(centre);
    let total = sum_registers(simd, row, |sum, x| {
        let x = simd.sub_f32s(x, around);
        simd.mul_add_f32s(x, x, sum)
    });
    total + S::as_simd_f32s(row).1.iter().map(|x| (x - centre) * (x - centre)).sum::<f32>()
}

/// Folds the whole registers of a row, four at a time, because each sum has to wait for the one before it.
#[inline(always)]
fn sum_registers<S: Simd>(simd: S, row: &[f32], add: impl Fn(S::f32s, S::f32s) -> S::f32s) -> f32 {
    let (fours, rest) = S::as_simd_f32s(row).0.as_chunks::<4>();
    let mut sums = [simd.splat_f32s(0.0); 4];
    for four in fours {
        for i in 0..4 {
            sums[i] = add(sums[i], four[i]);
        }
    }
    for x in rest {
        sums[0] = add(sums[0], *x);
    }
    let [a, b, c, d] = sums;
    simd.reduce_sum_f32s(simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d)))
}

/// Replaces a row by `e^(x * scale - shift)` and returns its sum.
#[inline(always)]
pub(crate) fn exp_and_sum(row: &mut [f32], scale: f32, shift: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (chunks, rest) = row.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            let y = exp(chunk[i] * scale - shift);
            chunk[i] = y;
            lanes[i] += y;
        }
    }
    let mut sum = lanes.iter().sum::<f32>();
    for x in rest {
        *x = exp(*x * scale - shift);
        sum += *x;
    }
    sum
}

/// Largest value of a row, minus infinity for an empty one; ignores NaN.
#[inline(always)]
pub(crate) fn max_of(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_the_last_digits() {
        let worst = (-87_000..=88_000)
            .map(|i| i as f32 / 1000.0)
            .map(|x| (f64::from(exp(x)) / f64::from(x).exp() - 1.0).abs())
            .fold(0.0, f64::max);
        assert!(worst < 2e-7, "{worst}");
        assert!((exp(f32::NEG_INFINITY), exp(f32::INFINITY)) == (exp(-87.0), exp(88.0)));
    }

    #[test]
    fn nan_comes_out_of_every_nan() {
        for low in 0..1 << 10 {
            for bits in [0x7fc0_0000, 0xffc0_0000, 0x7f80_0001, 0xff80_0001] {
                let x = f32::from_bits(bits | low);
                assert!(exp(x).is_nan() && silu(x).is_nan(), "{:x}", x.to_bits());
                let mut row = [0.0; 2 * LANES + 1];
                row[low as usize % row.len()] = x;
                assert!(exp_and_sum(&mut row, 1.0, 0.0).is_nan(), "{:x}", x.to_bits());
            }
        }
    }

    /// The two sums of a row, computed with registers of any width.
    struct Sums<'a>(&'a [f32]);

    impl WithSimd for Sums<'_> {
        type Output = (f32, f32);

        fn with_simd<S: Simd>(self, simd: S) -> (f32, f32) {
            (sum(simd, self.0), sum_of_squares(simd, self.0, 3.0))
        }
    }

    #[test]
    fn sums_look_at_every_value() {
        for len in [0, 1, 7, 16, 37, 64, 127] {
            let row: Vec<f32> = (0..len).map(|i| i as f32).collect();
            let want = (row.iter().sum(), row.iter().map(|x| (x - 3.0) * (x - 3.0)).sum());
            let simds = [
                Sums(&row).with_simd(pulp::Scalar),
                Sums(&row).with_simd(pulp::Scalar512b),
                pulp::Arch::new().dispatch(Sums(&row)),
            ];
            // Integers, so that the order does not matter.
            assert_eq!(simds, [want; 3], "{len} values");
        }
    }

    #[test]
    fn reductions_look_at_every_value() {
        let row: Vec<f32> = (0..37).map(|i| if i == 36 { 50.0 } else { i as f32 }).collect();
        assert!((max_of(&row) - 50.0).abs() < 1e-6);
        assert!((max_of(&row[..17]) - 16.0).abs() < 1e-6);
        let mut row: Vec<f32> = (0..37).map(|i| i as f32 / 10.0).collect();
        let expected: Vec<f32> = row.iter().map(|x| (2.0 * x - 1.0).exp()).collect();
        let sum = exp_and_sum(&mut row, 2.0, 1.0);
        assert!((sum / expected.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!(row.iter().zip(expected).all(|(x, y)| (x / y - 1.0).abs() < 1e-6));
    }
}
