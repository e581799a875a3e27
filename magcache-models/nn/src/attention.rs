//! Scaled dot-product attention with bounded memory.
//!
//! On the CPU the score matrix only ever exists in tiles of some queries by [`KEYS`]: the softmax over the
//! keys is carried from tile to tile (running maximum and sum, as in `FlashAttention`, arXiv 2205.14135).
//! Elsewhere the queries are split so that the scores of one part stay below [`SCORES`] values.

use candle_core::{D, DType, Layout, Result, Tensor};
use magcache_checkpoint::Ops;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{
    cpu::{Held, exp, exp_and_sum, max_of, on_cpu, zeros},
    matmul::{Onto, Panels, Rows, Target, Values, by_rows, product},
};

/// Keys per block: one block of the inner values of a product.
const KEYS: usize = 384;

/// Maximum queries per task: their scores stay in a core's L2 cache.
const QUERIES: usize = 144;

/// Values from one row of scores to the next: not a power of two, so that rows do not evict each other from
/// the cache.
const SCORES_STRIDE: usize = KEYS + 16;

/// Maximum scores that the fallback holds at a time, 1 GiB in f32.
const SCORES: usize = 1 << 28;

/// Attention with the scale `1 / sqrt(head_dim)`.
///
/// Queries `[batch, tokens, heads * head_dim]`, keys and values `[batch, keys, heads * head_dim]`, result
/// shaped like the queries. All three may be views as long as the channels of a token are contiguous.
pub fn attention(ops: Ops, q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    let head_dim = q.dim(D::Minus1)? / heads.max(1);
    run(ops, q, k, v, &Attention { heads, scale: (head_dim as f64).powf(-0.5), bias: None })
}

/// [`attention`] with another scale and a bias added to the scaled scores.
///
/// `bias` broadcasts to `[batch, heads, tokens, keys]`; a large negative number masks a key out.
pub fn attention_with_bias(
    ops: Ops,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    scale: f64,
    bias: &Tensor,
) -> Result<Tensor> {
    let bias = bias.broadcast_as((q.dim(0)?, heads, q.dim(1)?, k.dim(1)?))?;
    // A mask with a single value for all keys has no row to read.
    let bias = rows(&bias)?;
    run(ops, q, k, v, &Attention { heads, scale, bias: Some(bias) })
}

fn run(ops: Ops, q: &Tensor, k: &Tensor, v: &Tensor, op: &Attention) -> Result<Tensor> {
    let (batch, _, channels) = q.dims3()?;
    let fits = k.shape() == v.shape() && k.dim(0)? == batch && k.dim(2)? == channels && k.elem_count() > 0;
    if !fits || op.heads == 0 || channels % op.heads != 0 {
        candle_core::bail!(
            "attention: {} heads cannot attend from {:?} to keys {:?} and values {:?}",
            op.heads,
            q.shape(),
            k.shape(),
            v.shape()
        );
    }
    if on_cpu(ops, q) { op.in_tiles(&rows(q)?, &rows(k)?, &rows(v)?) } else { op.plain(q, k, v) }
}

/// The tensor with the channels of each token contiguous.
fn rows(x: &Tensor) -> Result<Tensor> {
    if side_by_side(x.layout()) { Ok(x.clone()) } else { x.contiguous() }
}

/// Whether the values of the last dimension are contiguous. A single one is, whatever its nominal stride.
fn side_by_side(layout: &Layout) -> bool {
    layout.stride().last() == Some(&1) || layout.dims().last() == Some(&1)
}

struct Attention {
    heads: usize,
    scale: f64,
    /// `[batch, heads, tokens, keys]` with any strides, keys contiguous.
    bias: Option<Tensor>,
}

impl Attention {
    fn plain(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let (batch, tokens, channels) = q.dims3()?;
        let (keys, dtype) = (k.dim(1)?, q.dtype());
        let split = |x: &Tensor| {
            x.reshape((batch, (), self.heads, channels / self.heads))?.transpose(1, 2)?.contiguous()
        };
        let (q, k, v) = ((split(q)? * self.scale)?, split(k)?.t()?, split(v)?);
        let cut = (SCORES / (batch * self.heads * keys).max(1)).clamp(1, tokens.max(1));
        let mut parts = Vec::with_capacity(tokens.div_ceil(cut));
        for start in (0..tokens).step_by(cut) {
            let length = cut.min(tokens - start);
            let mut scores = q.narrow(2, start, length)?.matmul(&k)?;
            if let Some(bias) = &self.bias {
                scores = (scores + bias.narrow(2, start, length)?.to_dtype(dtype)?)?;
            }
            // In half precision, a sum of many weights would lose the small ones.
            let weights = candle_nn::ops::softmax_last_dim(&scores.to_dtype(DType::F32)?)?;
            parts.push(weights.to_dtype(dtype)?.matmul(&v)?);
        }
        Tensor::cat(&parts, 2)?.transpose(1, 2)?.reshape((batch, tokens, channels))
    }
    /// On the CPU; the channels of a token lie side by side.
    fn in_tiles(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
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

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::testing::{random, worst};

    #[test]
    fn tiles_agree_with_the_whole_matrix() -> Result<()> {
        for (batch, tokens, keys, heads, head_dim) in
            [(2, 5, 7, 3, 8), (1, 300, 2 * KEYS + 5, 2, 16), (1, 1, 1, 1, 4), (2, 130, 40, 1, 20)]
        {
            let q = (random(&[batch, tokens, heads * head_dim])? * 3.0)?;
            let (k, v) =
                (random(&[batch, keys, heads * head_dim])?, random(&[batch, keys, heads * head_dim])?);
            let op = Attention { heads, scale: (head_dim as f64).powf(-0.5), bias: None };
            let (ours, plain) = (attention(Ops::Kernels, &q, &k, &v, heads)?, op.plain(&q, &k, &v)?);
            assert!(worst(&ours, &plain)? < 1e-5, "{tokens} {keys}");
            for shape in [
                [batch, heads, tokens, keys],
                [1, heads, tokens, keys],
                [batch, 1, 1, keys],
                [1, 1, tokens, 1],
            ] {
                let bias = (random(&shape)? * 4.0)?;
                let full = bias.broadcast_as((batch, heads, tokens, keys))?.contiguous()?;
                let plain = Attention { heads, scale: 0.7, bias: Some(full) }.plain(&q, &k, &v)?;
                let error =
                    worst(&attention_with_bias(Ops::Kernels, &q, &k, &v, heads, 0.7, &bias)?, &plain)?;
                // Scores of 50 and more: their own rounding changes the result by a relative 1e-6.
                assert!(error < 4e-5, "{shape:?} {error}");
            }
        }
        Ok(())
    }

    #[test]
    fn views_of_one_projection_need_no_copy() -> Result<()> {
        let fused = random(&[2, 9, 3 * 12])?;
        let parts = fused.chunk(3, 2)?;
        let whole: Vec<Tensor> = parts.iter().map(Tensor::contiguous).collect::<Result<_>>()?;
        let ours = attention(Ops::Kernels, &parts[0], &parts[1], &parts[2], 2)?;
        assert!(worst(&ours, &attention(Ops::Kernels, &whole[0], &whole[1], &whole[2], 2)?)? < 1e-6);
        Ok(())
    }

    #[test]
    fn masked_keys_do_not_matter_and_nan_is_not_hidden() -> Result<()> {
        let (q, k, v) = (random(&[1, 3, 8])?, random(&[1, 4, 8])?, random(&[1, 4, 8])?);
        let mask = Tensor::new(&[0f32, 0.0, 0.0, f32::MIN], &Device::Cpu)?.reshape((1, 1, 1, 4))?;
        let masked = attention_with_bias(Ops::Kernels, &q, &k, &v, 2, 0.5, &mask)?;
        let short = attention(Ops::Kernels, &q, &k.narrow(1, 0, 3)?, &v.narrow(1, 0, 3)?, 2)?;
        assert!(worst(&masked, &short)? < 1e-6);
        let bad = Tensor::full(f32::NAN, (1, 3, 8), &Device::Cpu)?;
        assert!(
            attention(Ops::Kernels, &bad, &k, &v, 2)?
                .flatten_all()?
                .to_vec1::<f32>()?
                .iter()
                .all(|x| x.is_nan())
        );
        Ok(())
    }

    #[test]
    fn keys_may_be_masked_by_minus_infinity_block_by_block() -> Result<()> {
        let keys = 2 * KEYS + 30;
        let (q, k, v) = (random(&[1, 3, 8])?, random(&[1, keys, 8])?, random(&[1, keys, 8])?);
        for masked in [1, KEYS - 1, KEYS, KEYS + 7, 2 * KEYS, keys - 1] {
            let mask = (0..keys).map(|key| if key < masked { f32::NEG_INFINITY } else { 0.5 });
            let mask = Tensor::from_iter(mask, &Device::Cpu)?.reshape((1, 1, 1, keys))?;
            let left = keys - masked;
            let short =
                attention(Ops::Kernels, &q, &k.narrow(1, masked, left)?, &v.narrow(1, masked, left)?, 2)?;
            let ours = attention_with_bias(Ops::Kernels, &q, &k, &v, 2, 0.5, &mask)?;
            assert!(worst(&ours, &short)? < 1e-6, "{masked} of {keys}: {ours}");
        }
        // With nothing to attend to, the result is NaN, as in the reference; and a NaN key shows through the
        // mask.
        let all = Tensor::full(f32::NEG_INFINITY, (1, 1, 1, keys), &Device::Cpu)?;
        let bad = k.slice_assign(&[0..1, 5..6, 0..8], &Tensor::full(f32::NAN, (1, 1, 8), &Device::Cpu)?)?;
        let first = Tensor::from_iter(
            (0..keys).map(|key| if key < KEYS { f32::NEG_INFINITY } else { 0.0 }),
            &Device::Cpu,
        )?;
        for (k, mask) in [(&k, all), (&bad, first.reshape((1, 1, 1, keys))?)] {
            let ours = attention_with_bias(Ops::Kernels, &q, k, &v, 2, 0.5, &mask)?;
            assert!(ours.flatten_all()?.to_vec1::<f32>()?.iter().all(|x| x.is_nan()), "{ours}");
        }
        Ok(())
    }

    #[test]
    fn a_dimension_of_one_has_any_stride() -> Result<()> {
        let (q, k, v) = (random(&[1, 3, 8])?, random(&[1, 1, 8])?, random(&[1, 1, 8])?);
        // One key for each of two heads: the last stride is that of the heads.
        let bias = random(&[1, 2])?.t()?.unsqueeze(0)?.unsqueeze(2)?;
        let bias = bias.broadcast_as((1, 2, 3, 1))?;
        assert!(
            worst(
                &attention_with_bias(Ops::Kernels, &q, &k, &v, 2, 0.5, &bias)?,
                &v.broadcast_as((1, 3, 8))?
            )? < 1e-6
        );
        // One channel for each of two tokens.
        let x = random(&[1, 1, 2])?.transpose(1, 2)?;
        assert!(
            worst(
                &attention(Ops::Kernels, &x, &x, &x, 1)?,
                &attention(Ops::Kernels, &x.force_contiguous()?, &x, &x, 1)?
            )? < 1e-6
        );
        Ok(())
    }

    #[test]
    fn refuses_shapes_that_do_not_fit() -> Result<()> {
        let q = Tensor::zeros((1, 3, 8), DType::F32, &Device::Cpu)?;
        let k = Tensor::zeros((1, 3, 6), DType::F32, &Device::Cpu)?;
        assert!(attention(Ops::Kernels, &q, &k, &k, 2).is_err());
        assert!(attention(Ops::Kernels, &q, &q, &q, 3).is_err());
        assert!(attention(Ops::Kernels, &q, &q, &q, 0).is_err());
        Ok(())
    }
}
