//! Matrix products with a right side packed in advance, and work on the result while it is still in the
//! cache.
//!
//! The weight of a layer is the right side of a product at every step, so it is laid out once in the order in
//! which the product reads it (a panel of [`Panels`] is as wide as two or four vector registers), and the
//! product itself packs nothing. The order of the loops is that of Goto and van de Geijn, "Anatomy of
//! High-Performance Matrix Multiplication" (2008), without the packing of the left side, whose few rows are
//! read in place.

mod kernel;
mod panels;

use super::{
    cpu::{RowKernel, rows_here, zeros},
    share::share,
};

pub(super) use kernel::{Finish, Onto, Rows, Target, product};
use kernel::{Near, ROWS, finish_rows, partial_product};
pub(super) use panels::{Panels, Values};

/// Products of at least this many multiply-adds are shared by the cores.
const SHARED: usize = 1 << 19;

/// A weight and its bias.
#[derive(Clone, Copy)]
pub(super) struct Layer<'a> {
    pub(super) weight: &'a Panels,
    pub(super) bias: Option<&'a [f32]>,
}

/// `x W + bias` for rows of `x`, `[rows, outputs]`.
pub(super) fn multiply(x: &[f32], layer: Layer<'_>, finish: &impl Finish) -> Vec<f32> {
    let Layer { weight, bias } = layer;
    let (inputs, outputs) = (weight.inputs(), weight.outputs());
    let rows = x.len() / inputs.max(1);
    let mut out = zeros(rows * outputs);
    if out.is_empty() {
        return out;
    }
    if rows == 1 {
        // One row is split by columns.
        let width = weight.columns_per_task();
        share(out.chunks_mut(width).enumerate(), |(task, out)| {
            let (lhs, columns) = (Rows { values: x, stride: inputs, count: 1 }, out.len());
            let onto = Onto::with(bias.map(|bias| &bias[task * width..]));
            let target = Target { values: out, stride: columns, columns, onto };
            product(lhs, weight, task * width, target, finish);
        });
        finish_rows(&mut out, outputs, 0, finish);
        return out;
    }
    split(&mut out, weight, |first, out| {
        let lhs = Rows { values: &x[first * inputs..], stride: inputs, count: out.len() / outputs };
        let target = Target { values: &mut *out, stride: outputs, columns: outputs, onto: Onto::with(bias) };
        product(lhs, weight, 0, target, finish);
        finish_rows(out, outputs, first, finish);
    });
    out
}

/// The same for rows that `kernel` computes from `x`, some at a time so that they never leave the L1 cache.
/// For few outputs, because the whole weight is read for each piece.
pub(super) fn multiply_rows(x: &[f32], kernel: &impl RowKernel, layer: Layer<'_>) -> Vec<f32> {
    const PIECE: usize = 8 * ROWS;
    let Layer { weight, bias } = layer;
    let (inputs, outputs) = (weight.inputs(), weight.outputs());
    let mut out = zeros(x.len() / inputs * outputs);
    split(&mut out, weight, |first, out| {
        let mut piece = vec![0.0; PIECE * inputs];
        for (i, out) in out.chunks_mut(PIECE * outputs).enumerate() {
            let (first, count) = (first + i * PIECE, out.len() / outputs);
            let piece = &mut piece[..count * inputs];
            rows_here(kernel, first, piece, inputs, &x[first * inputs..][..count * inputs], inputs);
            let lhs = Rows { values: piece, stride: inputs, count };
            let target = Target { values: out, stride: outputs, columns: outputs, onto: Onto::with(bias) };
            product(lhs, weight, 0, target, &());
        }
    });
    out
}

/// Two layers, `outer` of `between` of `inner`, piece by piece. The values between them never leave a core's
/// caches, because only one block of `outer`'s inner values is computed at a time.
pub(super) fn multiply_twice(
    x: &[f32],
    inner: Layer<'_>,
    between: &impl Finish,
    outer: Layer<'_>,
    finish: &impl Finish,
) -> Vec<f32> {
    let (inputs, hidden, outputs) = (inner.weight.inputs(), outer.weight.inputs(), outer.weight.outputs());
    let depth = outer.weight.depth();
    let mut out = zeros(x.len() / inputs * outputs);
    by_rows(&mut out, outputs, outer.weight.rows_per_task(), |first, out| {
        let count = out.len() / outputs;
        let lhs = Rows { values: &x[first * inputs..], stride: inputs, count };
        let mut near = Near::new(&lhs, inputs);
        let lhs = near.block(&lhs, 0, inputs);
        let mut values = vec![0.0; count * Near::stride(depth)];
        for start in (0..hidden).step_by(depth) {
            let columns = depth.min(hidden - start);
            let (stride, onto) = (Near::stride(columns), Onto::with(inner.bias.map(|bias| &bias[start..])));
            let target = Target { values: &mut values, stride, columns, onto };
            product(lhs, inner.weight, start, target, between);
            let rows = Rows { values: &values, stride, count };
            let onto = Onto::with(outer.bias);
            let target = Target { values: &mut *out, stride: outputs, columns: outputs, onto };
            partial_product(rows, outer.weight, start..start + columns, target, finish);
        }
        finish_rows(out, outputs, first, finish);
    });
    out
}

/// Runs `task(first, rows)` on the rows of a product, on all cores if there is enough to do.
fn split(out: &mut [f32], weight: &Panels, task: impl Fn(usize, &mut [f32]) + Sync) {
    if out.len() * weight.inputs() < SHARED {
        task(0, out);
    } else {
        by_rows(out, weight.outputs(), weight.rows_per_task(), task);
    }
}

/// Runs `task(first, rows)` on pieces of at most `most` rows of `out`, of `width` values each, that give
/// every core the same work.
pub(super) fn by_rows(out: &mut [f32], width: usize, most: usize, task: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = out.len() / width.max(1);
    if rows <= ROWS {
        task(0, out);
        return;
    }
    let (threads, units) = (rayon::current_num_threads(), rows.div_ceil(ROWS));
    let tasks = threads * rows.div_ceil(most * threads);
    let mut pieces = Vec::with_capacity(tasks);
    let (mut rest, mut first) = (out, 0);
    for i in 1..=tasks {
        let end = (i * units / tasks * ROWS).min(rows);
        let (piece, after) = rest.split_at_mut((end - first) * width);
        pieces.push((first, piece));
        (rest, first) = (after, end);
    }
    pieces.retain(|(_, piece)| !piece.is_empty());
    share(pieces.into_iter(), |(first, piece)| task(first, piece));
}
