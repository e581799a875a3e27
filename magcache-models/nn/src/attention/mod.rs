//! Scaled dot-product attention with bounded memory.
//!
//! On the CPU the score matrix only ever exists in tiles of some queries by some keys: the softmax over the
//! keys is carried from tile to tile (running maximum and sum, as in `FlashAttention`, arXiv 2205.14135). On
//! NVIDIA GPUs a library does the same. Elsewhere the queries are split so that the scores of one part
//! stay below 2^28 values.

mod cuts;
#[cfg(feature = "flash-attn")]
mod flash;
mod tiles;

use candle_core::{D, DType, Device, Layout, Result, Tensor};
use magcache_checkpoint::Ops;

/// Attention with the scale `1 / sqrt(head_dim)`.
///
/// Queries `[batch, tokens, heads * head_dim]`, keys and values `[batch, keys, heads * head_dim]`, result
/// shaped like the queries. All three may be views as long as the channels of a token are contiguous.
pub fn attention(ops: Ops, q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    Attention::scaled(q, heads)?.forward(ops, q, k, v)
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
    Attention { heads, scale, bias: Some(bias) }.forward(ops, q, k, v)
}

/// [`attention`] by one method, for those who compare them.
///
/// # Errors
/// Tensors that the method does not compute with, see [`AttentionMethod::applies`].
pub fn attention_by(
    method: AttentionMethod,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
) -> Result<Tensor> {
    Attention::scaled(q, heads)?.by(method, q, k, v)
}

/// How attention is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionMethod {
    /// By our kernel: on a CPU, in f32.
    Tiles,
    /// By the library that the feature `flash-attn` links: on NVIDIA GPUs from compute capability 8.0 on, in
    /// half precision.
    Flash,
    /// By candle's products, with whole rows of scores: everywhere. In the type of the queries, with
    /// sums in f32, so that it is exact in f32.
    Cuts,
}

impl AttentionMethod {
    /// What [`attention`] uses for queries on this device, of this type and with heads of this size:
    /// nothing else chooses.
    pub fn of(ops: Ops, device: &Device, dtype: DType, head_size: usize) -> Self {
        let applies = |method: &Self| ops == Ops::Kernels && method.applies(device, dtype, head_size);
        [Self::Tiles, Self::Flash].into_iter().find(applies).unwrap_or(Self::Cuts)
    }

    /// Whether it computes with such queries, in this build.
    pub fn applies(self, device: &Device, dtype: DType, head_size: usize) -> bool {
        match self {
            Self::Tiles => device.is_cpu() && dtype == DType::F32,
            #[cfg(feature = "flash-attn")]
            Self::Flash => flash::applies(device, dtype, head_size),
            #[cfg(not(feature = "flash-attn"))]
            Self::Flash => false,
            Self::Cuts => head_size > 0,
        }
    }
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
    fn scaled(q: &Tensor, heads: usize) -> Result<Self> {
        let head_dim = q.dim(D::Minus1)? / heads.max(1);
        Ok(Self { heads, scale: (head_dim as f64).powf(-0.5), bias: None })
    }

    fn forward(&self, ops: Ops, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let head_dim = self.check(q, k, v)?;
        let method = match AttentionMethod::of(ops, q.device(), q.dtype(), head_dim) {
            // The library has no bias.
            AttentionMethod::Flash if self.bias.is_some() => AttentionMethod::Cuts,
            method => method,
        };
        self.by(method, q, k, v)
    }

    fn by(&self, method: AttentionMethod, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let head_dim = self.check(q, k, v)?;
        match method {
            method if !method.applies(q.device(), q.dtype(), head_dim) => candle_core::bail!(
                "attention: {method:?} does not compute with {:?} on {:?} in heads of {head_dim}",
                q.dtype(),
                q.device().location()
            ),
            AttentionMethod::Tiles => self.in_tiles(&rows(q)?, &rows(k)?, &rows(v)?),
            #[cfg(feature = "flash-attn")]
            AttentionMethod::Flash => flash::forward(self, q, k, v),
            #[cfg(not(feature = "flash-attn"))]
            AttentionMethod::Flash => candle_core::bail!("attention: this build has no FlashAttention"),
            AttentionMethod::Cuts => self.in_cuts(q, k, v),
        }
    }

    /// Channels of a head, of tensors that fit each other.
    fn check(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<usize> {
        let (batch, _, channels) = q.dims3()?;
        let fits =
            k.shape() == v.shape() && k.dim(0)? == batch && k.dim(2)? == channels && k.elem_count() > 0;
        if !fits || self.heads == 0 || channels % self.heads != 0 {
            candle_core::bail!(
                "attention: {} heads cannot attend from {:?} to keys {:?} and values {:?}",
                self.heads,
                q.shape(),
                k.shape(),
                v.shape()
            );
        }
        Ok(channels / self.heads)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::{tiles::KEYS, *};
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
            let (ours, plain) = (attention(Ops::Kernels, &q, &k, &v, heads)?, op.in_cuts(&q, &k, &v)?);
            assert!(worst(&ours, &plain)? < 1e-5, "{tokens} {keys}");
            for shape in [
                [batch, heads, tokens, keys],
                [1, heads, tokens, keys],
                [batch, 1, 1, keys],
                [1, 1, tokens, 1],
            ] {
                let bias = (random(&shape)? * 4.0)?;
                let full = bias.broadcast_as((batch, heads, tokens, keys))?.contiguous()?;
                let plain = Attention { heads, scale: 0.7, bias: Some(full) }.in_cuts(&q, &k, &v)?;
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
