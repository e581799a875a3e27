//! Two linear layers with GELU between them.

use candle_core::{Result, Tensor};

use super::{
    Linear,
    activation::GeluTanh,
    cpu::{Held, compute},
    linear::layer,
    matmul,
    modulation::Rows,
    then,
};

/// `residual + gate * outer(gelu_tanh(inner(x)))`, all `[batch, tokens, channels]`; the gate is
/// `[batch or 1, tokens or 1, channels]`.
///
/// On the CPU the tensor between the layers, the largest of a block, is never written to memory.
///
/// Fails if the shapes do not fit each other.
pub fn feed_forward(
    x: &Tensor,
    inner: &Linear,
    outer: &Linear,
    residual: &Tensor,
    gate: &Tensor,
) -> Result<Tensor> {
    let (shape, hidden) = (residual.dims3()?, inner.shape_for(x)?);
    // Half-precision weights are widened one after the other: two at a time would take twice the memory.
    let (Some(first), Some(second)) = (inner.kept_panels(), outer.kept_panels()) else {
        return outer.forward_gated_add(&inner.forward_gelu_tanh(x)?, residual, gate);
    };
    if outer.shape_of(&hidden)? != residual.dims() {
        candle_core::bail!("feed-forward: {:?} onto {:?}", x.shape(), residual.shape());
    }
    let residual = residual.contiguous()?;
    let (values, gate) = (Held::new("feed-forward", &residual), Held::new("feed-forward", gate));
    let gate = Rows::new(&gate, shape.into())?;
    let then = then::GatedAdd { values: values.values()?, gate };
    let (bias, outer_bias) = (inner.bias(), outer.bias());
    let (inner, outer) = (layer(first, bias.as_ref())?, layer(second, outer_bias.as_ref())?);
    compute("feed-forward", x, residual.shape(), |x| {
        matmul::multiply_twice(x, inner, &GeluTanh, outer, &then)
    })
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use magcache_checkpoint::Ops;

    use super::*;
    use crate::testing::{self, largest, worst};

    fn random(shape: &[usize], dtype: DType) -> Result<Tensor> {
        (testing::random(shape)? * 0.3)?.to_dtype(dtype)
    }

    #[test]
    fn both_layers_at_once_are_one_after_the_other() -> Result<()> {
        // One block of hidden channels and several, the last one short; one row, one task and several tasks.
        for (batch, tokens, inputs, hidden) in
            [(1, 1, 24, 40), (2, 5, 40, 100), (2, 350, 24, 1700), (1, 30, 1600, 3300)]
        {
            let dtype = if tokens == 5 { DType::BF16 } else { DType::F32 };
            let inner = Linear::new(
                Ops::Kernels,
                random(&[hidden, inputs], dtype)?,
                Some(random(&[hidden], dtype)?),
            )?;
            let outer = Linear::new(Ops::Kernels, random(&[inputs, hidden], dtype)?, None)?;
            let x = random(&[batch, inputs, tokens], DType::F32)?.transpose(1, 2)?;
            let residual = random(&[batch, tokens, inputs], DType::F32)?;
            let gate = random(&[batch, 1, 2 * inputs], DType::F32)?.narrow(2, inputs, inputs)?;
            let apart = outer.forward_gated_add(&inner.forward_gelu_tanh(&x)?, &residual, &gate)?;
            let ours = feed_forward(&x, &inner, &outer, &residual, &gate)?;
            assert_eq!(ours.dims(), apart.dims());
            let (error, scale) = (worst(&ours, &apart)?, largest(&apart)?);
            assert!(error < 2e-6 * scale, "{tokens} tokens, {hidden} hidden: {error} of {scale}");
        }
        Ok(())
    }

    #[test]
    fn refuses_what_does_not_fit() -> Result<()> {
        let layer = |outputs: usize, inputs: usize| {
            Linear::new(Ops::Kernels, random(&[outputs, inputs], DType::F32)?, None)
        };
        let x = random(&[1, 3, 8], DType::F32)?;
        let (inner, outer) = (layer(16, 8)?, layer(8, 16)?);
        assert!(feed_forward(&x, &inner, &outer, &x, &x).is_ok());
        assert!(feed_forward(&x, &outer, &inner, &x, &x).is_err());
        assert!(feed_forward(&x, &inner, &inner, &x, &x).is_err());
        let other = random(&[1, 4, 8], DType::F32)?;
        assert!(feed_forward(&x, &inner, &outer, &other, &other).is_err());
        assert!(feed_forward(&x, &inner, &outer, &x, &other).is_err());
        Ok(())
    }
}
