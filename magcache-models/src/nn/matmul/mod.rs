//! Matrix products with a right side that was packed beforehand, and something done to the result while it is in registers' reach.
//!
//! The weight of a layer is the right side of a product at every step, so it is laid out once in the order in which the product
//! reads it (a panel of [`Panels`] is as wide as two vector registers), and the product needs no packing at all. The order of
//! the loops is that of Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008), without the packing of
//! the left side, whose few rows are read in place.

mod kernel;
mod panels;

use rayon::prelude::*;

use super::cpu::zeros;

pub(super) use kernel::{Begin, Finish, Rows, Target, product};
use kernel::{ROWS, finish_rows};
pub(super) use panels::{Panels, Values};

/// Rows of a task: with the inner values of a block they fit into the second cache of a core.
const TASK_ROWS: usize = 96;

/// `x W + bias` for rows of `x`, `[rows, outputs]`.
pub(super) fn multiply(x: &[f32], weight: &Panels, bias: Option<&[f32]>, finish: &impl Finish) -> Vec<f32> {
    let (inputs, outputs) = (weight.inputs(), weight.outputs());
    let rows = x.len() / inputs.max(1);
    let mut out = zeros(rows * outputs);
    if out.is_empty() {
        return out;
    }
    if rows == 1 {
        // One row is split by columns.
        let width = weight.columns_per_task();
        out.par_chunks_mut(width).enumerate().for_each(|(task, out)| {
            let (lhs, columns) = (Rows { values: x, stride: inputs, count: 1 }, out.len());
            let begin = Begin::with(bias.map(|bias| &bias[task * width..]));
            let target = Target { values: out, stride: columns, columns, begin };
            product(lhs, weight, task * width, target, finish);
        });
        finish_rows(&mut out, outputs, 0, finish);
        return out;
    }
    by_rows(&mut out, outputs, |first, out| {
        let lhs = Rows { values: &x[first * inputs..], stride: inputs, count: out.len() / outputs };
        let target =
            Target { values: &mut *out, stride: outputs, columns: outputs, begin: Begin::with(bias) };
        product(lhs, weight, 0, target, finish);
        finish_rows(out, outputs, first, finish);
    });
    out
}

/// Runs `task(first, rows)` on pieces of the rows of `out`, of `width` values each, that give every core the same work.
pub(super) fn by_rows(out: &mut [f32], width: usize, task: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = out.len() / width.max(1);
    if rows <= ROWS {
        task(0, out);
        return;
    }
    let (threads, units) = (rayon::current_num_threads(), rows.div_ceil(ROWS));
    let tasks = threads * rows.div_ceil(TASK_ROWS * threads);
    let mut pieces = Vec::with_capacity(tasks);
    let (mut rest, mut first) = (out, 0);
    for i in 1..=tasks {
        let end = (i * units / tasks * ROWS).min(rows);
        let (piece, behind) = rest.split_at_mut((end - first) * width);
        pieces.push((first, piece));
        (rest, first) = (behind, end);
    }
    pieces
        .into_par_iter()
        .filter(|(_, piece)| !piece.is_empty())
        .for_each(|(first, piece)| task(first, piece));
}
