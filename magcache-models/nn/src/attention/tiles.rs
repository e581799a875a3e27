//! In tiles of some queries by some keys, on the CPU in f32.

use candle_core::{Result, Tensor};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{Attention, side_by_side};
use crate::{
    cpu::{Held, exp, exp_and_sum, max_of, zeros},
    matmul::{Onto, Panels, Rows, Target, Values, by_rows, product},
};

/// Keys per block: one block of the inner values of a product.
pub(super) const KEYS: usize = 384;

/// Maximum queries per task: their scores stay in a core's L2 cache.
const QUERIES: usize = 144;

/// Values from one row of scores to the next: not a power of two, so that rows do not evict each other from
/// the cache.
const SCORES_STRIDE: usize = KEYS + 16;

impl Attention {
    /// On the CPU; the channels of a token lie side by side.
    pub(super) fn in_tiles(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let ((batch, tokens, channels), keys) = (q.dims3()?, k.dim(1)?);
        let head_dim = channels / self.heads;
        let bias = self.bias.as_ref().map(held);
        let bias = bias.as_ref().map(View::<3>::new).transpose()?;
        let held = [q, k, v].map(held);
        let [q_values, k_values, v_values] = &held;
        let (q_values, k_values, v_values) =
            (View::<2>::new(q_values)?, View::<2>::new(k_values)?, View::<2>::new(v_values)?);
        let mut out = zeros(batch * tokens * channels);
        for (b, out) in out.chunks_exact_mut((tokens * channels).max(1)).enumerate() {
            let places: Vec<(usize, usize)> = (0..self.heads)
                .flat_map(|head| (0..keys).step_by(KEYS).map(move |first| (head * head_dim, first)))
                .collect();
            let blocks: Vec<Block> = places
                .into_par_iter()
                .map(|(column, first)| {
                    let count = KEYS.min(keys - first);
                    let keys = Values::F32(k_values.from([b, first], column));
                    let values = Values::F32(v_values.from([b, first], column));
                    Block {
                        keys: Panels::from_columns(keys, k_values.strides[1], head_dim, count),
                        values: Panels::from_rows(values, v_values.strides[1], count, head_dim),
                    }
                })
                .collect();
            let by_head = blocks.len() / self.heads;
            by_rows(out, channels, QUERIES, |first, out| {
                let mut scores = vec![0f32; out.len() / channels * SCORES_STRIDE];
                for (head, blocks) in blocks.chunks_exact(by_head).enumerate() {
                    let column = head * head_dim;
                    let tile = Tile {
                        q: Rows {
                            values: q_values.from([b, first], column),
                            stride: q_values.strides[1],
                            count: out.len() / channels,
                        },
                        blocks,
                        scale: self.scale as f32,
                        head_dim,
                    };
                    let bias = |query, key| bias.map(|bias| bias.from([b, head, first + query], key));
                    tile.run(&mut out[column..], channels, &mut scores, bias);
                }
            });
        }
        Tensor::from_vec(out, q.shape(), q.device())
    }
}

fn held(x: &Tensor) -> Held<'_> {
    Held::new("attention", x)
}

/// A tensor with any strides but the last, which is 1.
#[derive(Clone, Copy)]
struct View<'a, const N: usize> {
    values: &'a [f32],
    strides: [usize; N],
}

impl<'a, const N: usize> View<'a, N> {
    fn new(x: &'a Held<'_>) -> Result<Self> {
        let (layout, storage) = (x.layout, x.storage()?.as_slice::<f32>()?);
        let strides = layout.stride().split_last().and_then(|(_, outer)| outer.try_into().ok());
        let (Some(strides), true) = (strides, side_by_side(layout)) else {
            candle_core::bail!(
                "attention: the last axis must lie side by side, strides are {:?}",
                layout.stride()
            )
        };
        match storage.get(layout.start_offset()..) {
            Some(values) => Ok(Self { values, strides }),
            None => candle_core::bail!("attention: the layout of {:?} exceeds its storage", layout.dims()),
        }
    }

    /// The values from a place on: its index on each axis but the last, and on the last.
    fn from(&self, place: [usize; N], last: usize) -> &'a [f32] {
        let start: usize = place.iter().zip(&self.strides).map(|(index, stride)| index * stride).sum();
        self.values.get(start + last..).unwrap_or_default()
    }
}

/// Some keys of one head, with their values.
struct Block {
    /// `[head_dim, keys]`.
    keys: Panels,
    /// `[keys, head_dim]`.
    values: Panels,
}

/// Softmax state of one query between blocks of keys.
#[derive(Clone, Copy)]
struct Running {
    max: f32,
    sum: f32,
}

/// Some queries of one head.
struct Tile<'a> {
    q: Rows<'a>,
    blocks: &'a [Block],
    scale: f32,
    head_dim: usize,
}

impl Tile<'_> {
    /// Writes the rows of `out`, which are `stride` values apart; `bias(query, key)` is a query's bias row
    /// starting at `key`.
    fn run<'b>(
        &self,
        out: &mut [f32],
        stride: usize,
        scores: &mut [f32],
        bias: impl Fn(usize, usize) -> Option<&'b [f32]>,
    ) {
        let mut state = vec![Running { max: f32::NEG_INFINITY, sum: 0.0 }; self.q.count];
        let mut first = 0;
        for block in self.blocks {
            let keys = block.keys.outputs();
            let target = Target { values: scores, stride: SCORES_STRIDE, columns: keys, onto: Onto::Nothing };
            product(self.q, &block.keys, 0, target, &());
            let rows = scores.chunks_exact_mut(SCORES_STRIDE).zip(out.chunks_mut(stride)).zip(&mut state);
            for (query, ((row, out), state)) in rows.enumerate() {
                Arch::new().dispatch(SoftmaxStep {
                    row: &mut row[..keys],
                    bias: bias(query, first),
                    scale: self.scale,
                    out: &mut out[..self.head_dim],
                    state,
                });
            }
            let rows = Rows { values: scores, stride: SCORES_STRIDE, count: self.q.count };
            let onto = if first > 0 { Onto::Target } else { Onto::Nothing };
            let target = Target { values: out, stride, columns: self.head_dim, onto };
            product(rows, &block.values, 0, target, &());
            first += keys;
        }
        for (out, state) in out.chunks_mut(stride).zip(&state) {
            let inverse = state.sum.recip();
            out[..self.head_dim].iter_mut().for_each(|x| *x *= inverse);
        }
    }
}

/// Turns a row of scores into `exp(score - maximum)`, updates the maximum and the sum, and rescales the
/// result so far to the new maximum.
struct SoftmaxStep<'a> {
    row: &'a mut [f32],
    bias: Option<&'a [f32]>,
    scale: f32,
    out: &'a mut [f32],
    state: &'a mut Running,
}

impl WithSimd for SoftmaxStep<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { row, bias, mut scale, out, state } = self;
        // A negative scale reverses the order.
        if bias.is_some() || scale < 0.0 {
            for (i, x) in row.iter_mut().enumerate() {
                *x = *x * scale + bias.map_or(0.0, |bias| bias[i]);
            }
            scale = 1.0;
        }
        let max = state.max.max(scale * max_of(row));
        if max == f32::NEG_INFINITY {
            // Every key so far is masked out: there is no weight yet, and no maximum to subtract. NaN is not
            // a mask.
            row.iter_mut().filter(|x| !x.is_nan()).for_each(|x| *x = 0.0);
            state.sum += row.iter().sum::<f32>();
            return;
        }
        if state.max > f32::NEG_INFINITY && state.max < max {
            let rescale = exp(state.max - max);
            out.iter_mut().for_each(|x| *x *= rescale);
            state.sum *= rescale;
        }
        state.sum += exp_and_sum(row, scale, max);
        state.max = max;
    }
}
