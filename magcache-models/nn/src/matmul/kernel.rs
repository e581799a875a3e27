//! The innermost loops: some rows times one panel in registers.

use std::{array, ops::Range};

use pulp::{Arch, Simd, WithSimd};

use super::panels::{NARROW, Panels, WIDE, across};

/// Rows per tile of the result.
pub(crate) const ROWS: usize = 6;

/// Inner values per turn of the loop, whose bounds are checked together.
const UNROLLED: usize = 8;

/// `count` rows, each `stride` values after the one before.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) count: usize,
}

/// The destination of a product.
pub(crate) struct Target<'a> {
    /// Rows of `columns` values.
    pub(crate) values: &'a mut [f32],
    /// Values from one row to the next.
    pub(crate) stride: usize,
    /// Columns to compute.
    pub(crate) columns: usize,
    /// What the product is added to.
    pub(crate) onto: Onto<'a>,
}

/// What a product is added to. A bias comes last, as in torch: a sum that begins with it rounds differently.
#[derive(Clone, Copy)]
pub(crate) enum Onto<'a> {
    Nothing,
    /// A bias: as many values as there are columns, the same for every row.
    Bias(&'a [f32]),
    /// What is in the target.
    Target,
}

impl<'a> Onto<'a> {
    /// A bias, if there is one.
    pub(crate) fn with(bias: Option<&'a [f32]>) -> Self {
        bias.map_or(Self::Nothing, Self::Bias)
    }
}

/// What is done to a result as soon as it is computed.
///
/// Implementations are `#[inline(always)]`, see [`RowKernel`](crate::cpu::RowKernel).
pub(crate) trait Finish: Sync {
    /// Adjacent values of a row; every value is seen once.
    fn piece<S: Simd>(&self, _: S, _values: &mut [f32]) {}

    /// Row `row` as a whole, after its pieces.
    fn row<S: Simd>(&self, _: S, _row: usize, _values: &mut [f32]) {}
}

/// The result stays as it is.
impl Finish for () {}

/// Rows times the columns of `weight` from `first` on, a multiple of the width, on this thread.
pub(crate) fn product(lhs: Rows<'_>, weight: &Panels, first: usize, out: Target<'_>, finish: &impl Finish) {
    Arch::new().dispatch(Product { lhs, weight, inputs: 0..weight.inputs(), first, out, finish });
}

/// The part of a [`product`] that comes from some inner values, in whole blocks: added to the parts before
/// it, and finished with the last.
pub(super) fn partial_product(
    lhs: Rows<'_>,
    weight: &Panels,
    inputs: Range<usize>,
    out: Target<'_>,
    finish: &impl Finish,
) {
    Arch::new().dispatch(Product { lhs, weight, inputs, first: 0, out, finish });
}

struct Product<'a, F> {
    /// Starting at the first of `inputs`.
    lhs: Rows<'a>,
    weight: &'a Panels,
    inputs: Range<usize>,
    first: usize,
    out: Target<'a>,
    finish: &'a F,
}

impl<F: Finish> WithSimd for Product<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match (self.lhs.count, across(S::F32_LANES)) {
            (1, WIDE) => self.run::<S, 1, 1, WIDE>(simd),
            (1, _) => self.run::<S, 1, 1, NARROW>(simd),
            (_, WIDE) => self.run::<S, ROWS, { 2 * ROWS }, WIDE>(simd),
            _ => self.run::<S, ROWS, ROWS, NARROW>(simd),
        }
    }
}

impl<F: Finish> Product<'_, F> {
    /// With panels of `P` registers in tiles of `R` rows; in tiles of `T` rows if the remaining columns fill
    /// only [`NARROW`] of the registers.
    #[inline(always)]
    fn run<S: Simd, const R: usize, const T: usize, const P: usize>(self, simd: S) {
        let Self { lhs, weight, inputs, first, mut out, finish } = self;
        let (width, block) = (weight.width(), weight.depth());
        let mut near = Near::new(&lhs, block.min(inputs.len()));
        for start in inputs.clone().step_by(block) {
            let depth = block.min(inputs.end - start);
            let rows = near.block(&lhs, start - inputs.start, depth);
            for column in (0..out.columns).step_by(width) {
                let panel = S::as_simd_f32s(weight.panel(start, first + column)).0.as_chunks().0;
                let columns = column..out.columns.min(column + width);
                let slab = Slab { columns, begun: start > 0, last: start + block >= weight.inputs() };
                if P > NARROW && slab.columns.len() <= NARROW * S::F32_LANES {
                    tiles::<S, T, NARROW, P>(simd, rows, panel, &mut out, &slab, finish);
                } else {
                    tiles::<S, R, P, P>(simd, rows, panel, &mut out, &slab, finish);
                }
            }
        }
    }
}

/// What a block of inner values adds to.
struct Slab {
    /// Some columns of the result.
    columns: Range<usize>,
    /// Whether an earlier block has been added.
    begun: bool,
    /// Whether it is the last block.
    last: bool,
}

/// All rows times `A` of the `P` registers of a panel, `R` rows at a time.
#[inline(always)]
fn tiles<S: Simd, const R: usize, const A: usize, const P: usize>(
    simd: S,
    lhs: Rows<'_>,
    panel: &[[S::f32s; P]],
    out: &mut Target<'_>,
    slab: &Slab,
    finish: &impl Finish,
) {
    let (column, taken) = (slab.columns.start, slab.columns.len());
    let there = slab.begun || matches!(out.onto, Onto::Target);
    let mut of_bias = [simd.splat_f32s(0.0); A];
    if let (true, Onto::Bias(bias)) = (slab.last, out.onto) {
        load(simd, &bias[column..][..taken], &mut of_bias);
    }
    for row in (0..lhs.count).step_by(R) {
        let rows = R.min(lhs.count - row);
        // Missing rows are computed as copies of the last one and dropped.
        let a: [&[f32]; R] =
            array::from_fn(|r| &lhs.values[(row + r.min(rows - 1)) * lhs.stride..][..panel.len()]);
        let mut sums = [[simd.splat_f32s(0.0); A]; R];
        if there {
            for (r, sums) in sums.iter_mut().enumerate().take(rows) {
                load(simd, &out.values[(row + r) * out.stride + column..][..taken], sums);
            }
        }
        accumulate(simd, a, panel, &mut sums);
        for (r, sums) in sums.iter().enumerate().take(rows) {
            let place = &mut out.values[(row + r) * out.stride + column..][..taken];
            let sums: [S::f32s; A] = array::from_fn(|i| simd.add_f32s(sums[i], of_bias[i]));
            store(simd, place, &sums);
            if slab.last {
                finish.piece(simd, place);
            }
        }
    }
}

/// The rows of a block, close together.
///
/// Rows that are far apart each lie on another page, and if their distance is a power of two they evict each
/// other from the L1 cache.
pub(super) struct Near(Vec<f32>);

impl Near {
    /// Rows at most this many values apart are read in place.
    const CLOSE: usize = 512;
    /// Values between two rows of a copy.
    const BETWEEN: [f32; 18] = [0.0; 18];

    /// For blocks of at most `depth` values of each row.
    pub(super) fn new(rows: &Rows<'_>, depth: usize) -> Self {
        let copied = if Self::are(rows, depth) { 0 } else { rows.count * Self::stride(depth) };
        Self(Vec::with_capacity(copied))
    }

    /// `depth` values of each row from `start` on.
    pub(super) fn block<'a>(&'a mut self, rows: &Rows<'a>, start: usize, depth: usize) -> Rows<'a> {
        if Self::are(rows, depth) {
            return Rows { values: &rows.values[start..], ..*rows };
        }
        self.0.clear();
        for row in 0..rows.count {
            self.0.extend_from_slice(&rows.values[row * rows.stride + start..][..depth]);
            self.0.extend_from_slice(&Self::BETWEEN);
        }
        Rows { values: &self.0, stride: Self::stride(depth), count: rows.count }
    }

    /// Values from one row of a copy to the next.
    pub(super) const fn stride(depth: usize) -> usize {
        depth + Self::BETWEEN.len()
    }

    /// Whether these rows need no copy.
    fn are(rows: &Rows<'_>, depth: usize) -> bool {
        rows.stride <= Self::CLOSE || rows.stride == Self::stride(depth)
    }
}

#[inline(always)]
fn load<S: Simd, const A: usize>(simd: S, from: &[f32], to: &mut [S::f32s; A]) {
    if let (from, []) = S::as_simd_f32s(from)
        && from.len() == A
    {
        to.copy_from_slice(from);
        return;
    }
    for (piece, to) in from.chunks(S::F32_LANES).zip(to) {
        *to = simd.partial_load_f32s(piece);
    }
}

#[inline(always)]
fn store<S: Simd, const A: usize>(simd: S, to: &mut [f32], from: &[S::f32s; A]) {
    if let (to, []) = S::as_mut_simd_f32s(to)
        && to.len() == A
    {
        to.copy_from_slice(from);
        return;
    }
    for (piece, from) in to.chunks_mut(S::F32_LANES).zip(from) {
        simd.partial_store_f32s(piece, *from);
    }
}

/// `sums += a * panel`: one value of each row times the first `A` registers of one row of the panel at a
/// time.
#[inline(always)]
fn accumulate<S: Simd, const R: usize, const A: usize, const P: usize>(
    simd: S,
    a: [&[f32]; R],
    panel: &[[S::f32s; P]],
    total: &mut [[S::f32s; A]; R],
) {
    // Sums that are indexed by constants only stay in registers.
    let mut sums = *total;
    let (turns, rest) = panel.as_chunks::<UNROLLED>();
    let whole: [&[[f32; UNROLLED]]; R] = array::from_fn(|r| a[r].as_chunks().0);
    for (turn, b) in turns.iter().enumerate() {
        let a: [&[f32; UNROLLED]; R] = array::from_fn(|r| &whole[r][turn]);
        for k in 0..UNROLLED {
            for r in 0..R {
                let x = simd.splat_f32s(a[r][k]);
                for i in 0..A {
                    sums[r][i] = simd.mul_add_f32s(x, b[k][i], sums[r][i]);
                }
            }
        }
    }
    for (k, b) in (turns.len() * UNROLLED..).zip(rest) {
        for r in 0..R {
            let x = simd.splat_f32s(a[r][k]);
            for i in 0..A {
                sums[r][i] = simd.mul_add_f32s(x, b[i], sums[r][i]);
            }
        }
    }
    *total = sums;
}

/// Finishes whole rows of `stride` values, starting with row `first`.
pub(super) fn finish_rows(out: &mut [f32], stride: usize, first: usize, finish: &impl Finish) {
    struct Whole<'a, F> {
        out: &'a mut [f32],
        stride: usize,
        first: usize,
        finish: &'a F,
    }
    impl<F: Finish> WithSimd for Whole<'_, F> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            for (i, row) in self.out.chunks_exact_mut(self.stride).enumerate() {
                self.finish.row(simd, self.first + i, row);
            }
        }
    }
    Arch::new().dispatch(Whole { out, stride, first, finish });
}

#[cfg(test)]
mod tests {
    use pulp::{Scalar, Scalar128b, Scalar256b, Scalar512b};

    use super::{super::panels::Values, *};

    /// Twice the result.
    struct Twice;

    impl Finish for Twice {
        #[inline(always)]
        fn piece<S: Simd>(&self, _: S, values: &mut [f32]) {
            values.iter_mut().for_each(|value| *value *= 2.0);
        }
    }

    fn wave(n: usize, step: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * step).sin()).collect()
    }

    /// Registers of any width give the same sums, whichever this machine has.
    fn check<S: Simd>(simd: S) {
        // One row and many, one block of inner values and three, panels that are full, half full and less.
        for (rows, inputs, outputs) in
            [(1, 5, 3), (1, 900, 70), (5, 8, 64), (13, 401, 33), (25, 3100, 100), (7, 1, 1), (30, 384, 96)]
        {
            let (x, weight) = (wave(rows * inputs, 0.37), wave(outputs * inputs, 0.23));
            let panels = Panels::of_width(
                across(S::F32_LANES) * S::F32_LANES,
                Values::F32(&weight),
                inputs,
                inputs,
                outputs,
            );
            let bias = wave(outputs, 0.71);
            let mut out = vec![7.0; rows * outputs];
            let lhs = Rows { values: &x, stride: inputs, count: rows };
            let target =
                Target { values: &mut out, stride: outputs, columns: outputs, onto: Onto::Bias(&bias) };
            Product { lhs, weight: &panels, inputs: 0..inputs, first: 0, out: target, finish: &Twice }
                .with_simd(simd);
            for (i, got) in out.iter().enumerate() {
                let (x, weight) = (&x[i / outputs * inputs..], &weight[i % outputs * inputs..]);
                let products = x.iter().zip(weight).take(inputs).map(|(a, b)| f64::from(*a) * f64::from(*b));
                let want = 2.0 * (f64::from(bias[i % outputs]) + products.sum::<f64>());
                let error = (f64::from(*got) - want).abs();
                assert!(error < 1e-4, "{} lanes, {rows}x{inputs}x{outputs}: {error}", S::F32_LANES);
            }
        }
    }

    #[test]
    fn every_width_of_registers_gives_the_product() {
        check(Scalar);
        check(Scalar128b);
        check(Scalar256b);
        check(Scalar512b);
    }
}
