//! What surrounds the products of a transformer block, row by row.
//!
//! On the CPU these are fused with the products, in f32. On NVIDIA GPUs each is one kernel, which adds the
//! bias of the product before it too, in any type. Everywhere else, and with [`Ops::Reference`], each is a
//! composition of candle's operations, which is also what the kernels are tested against.

use candle_core::{D, DType, Result, Tensor};
use magcache_checkpoint::Ops;

use super::RotaryTable;

/// An operation on `[batch, tokens, channels]`, with sums and factors in f32, to the same shape and type.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RowOp<'a> {
    /// `(x - mean) / sqrt(variance + eps) * (1 + scale) + shift`; both `[batch or 1, tokens or 1, channels]`.
    Modulate { shift: &'a Tensor, scale: &'a Tensor, eps: f64 },
    /// `(x - mean) / sqrt(variance + eps) * weight + bias`, both `[channels]` in f32.
    LayerNorm { weight: &'a Tensor, bias: &'a Tensor, eps: f64 },
    /// `x / sqrt(mean(x²) + eps) * weight` over as many channels as `weight` has.
    RmsNorm { weight: &'a Tensor, eps: f64 },
    /// The same, then a rotation of every head by the position of its token.
    Turn { weight: &'a Tensor, table: &'a RotaryTable, eps: f64 },
    /// `residual + x * gate`; the gate is `[batch or 1, tokens or 1, channels]`.
    GatedAdd { residual: &'a Tensor, gate: &'a Tensor },
    /// `residual + x`.
    Add { residual: &'a Tensor },
    /// GELU with the tanh approximation.
    Gelu,
    /// Nothing but the bias.
    Bias,
}

impl RowOp<'_> {
    /// Of `x`, or of `x + added` for a vector of channels in f32: the bias of the product that gave `x`.
    pub(crate) fn run(&self, ops: Ops, x: &Tensor, added: Option<&Tensor>) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if ops == Ops::Kernels
            && let Some(y) = super::cuda::run(self, x, added)?
        {
            return Ok(y);
        }
        let _ = ops;
        self.plain(x, added)
    }

    /// The same by candle's operations.
    pub(crate) fn plain(&self, x: &Tensor, added: Option<&Tensor>) -> Result<Tensor> {
        let x = &match added {
            Some(added) => x.broadcast_add(&added.to_dtype(x.dtype())?)?,
            None => x.clone(),
        };
        match self {
            Self::Modulate { shift, scale, eps } => modulate(x, shift, scale, *eps),
            Self::LayerNorm { weight, bias, eps } => {
                in_f32(x, |x| candle_nn::ops::layer_norm(x, weight, bias, *eps as f32))
            }
            Self::RmsNorm { weight, eps } => in_f32(x, |x| {
                let (shape, width) = (x.shape(), weight.dims1()?);
                let norms = x.reshape(((), width))?;
                candle_nn::ops::rms_norm(&norms, weight, *eps as f32)?.reshape(shape)
            }),
            Self::Turn { weight, table, eps } => turn(x, weight, table, *eps),
            Self::GatedAdd { residual, gate } => {
                (f32(residual)? + f32(x)?.broadcast_mul(&f32(gate)?)?)?.to_dtype(residual.dtype())
            }
            Self::Add { residual } => *residual + x,
            Self::Gelu => x.gelu(),
            Self::Bias => Ok(x.clone()),
        }
    }
}

fn f32(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::F32)
}

/// Computes in f32, whatever the type of the input.
fn in_f32(x: &Tensor, of: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    of(&f32(x)?.contiguous()?)?.to_dtype(x.dtype())
}

fn modulate(x: &Tensor, shift: &Tensor, scale: &Tensor, eps: f64) -> Result<Tensor> {
    let (dtype, x) = (x.dtype(), f32(x)?);
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    let scale = (f32(scale)? + 1.0)?;
    centred.broadcast_div(&deviation)?.broadcast_mul(&scale)?.broadcast_add(&f32(shift)?)?.to_dtype(dtype)
}

fn turn(x: &Tensor, weight: &Tensor, table: &RotaryTable, eps: f64) -> Result<Tensor> {
    let (batch, tokens, channels) = x.dims3()?;
    let half = table.values().dim(2)?;
    let dtype = x.dtype();
    let x = x.to_dtype(DType::F32)?.reshape((batch, tokens, (), weight.dims1()?))?;
    let deviation = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    let x = x.broadcast_div(&deviation)?.broadcast_mul(weight)?;
    let pairs = x.reshape((batch, tokens, channels / (2 * half), half, 2))?;
    let (a, b) = (pairs.narrow(4, 0, 1)?, pairs.narrow(4, 1, 1)?);
    let (cos, sin) =
        (table.cos()?.reshape((1, tokens, 1, half, 1))?, table.sin()?.reshape((1, tokens, 1, half, 1))?);
    let real = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let imaginary = (a.broadcast_mul(&sin)? + b.broadcast_mul(&cos)?)?;
    Tensor::cat(&[real, imaginary], 4)?.reshape((batch, tokens, channels))?.to_dtype(dtype)
}
