//! `x W^T + b`.

use std::sync::Arc;

use candle_core::{D, DType, Result, Tensor};

use super::{
    RmsNorm, RotaryTable,
    activation::{GeluErf, GeluTanh},
    cpu::{Held, compute, on_cpu},
    gelu_erf, layer_norm_modulate,
    matmul::{self, Finish, Layer, Panels, Values},
    modulation::{self, ModulateRows},
    norm::RmsNormRows,
    rotary::TurnedRows,
    row_op::RowOp,
    then,
    weight::Weight,
};
use magcache_checkpoint::{CheckpointError, CodedMatrix, DeviceMatrix, Matrix, Ops, Weights};

/// A linear layer with its weight `[out, in]`.
///
/// On the CPU an f32 weight is stored in the order in which products read it; a half-precision or coded
/// weight stays as it is and is widened or decoded into that order for each call. Elsewhere the layer
/// computes in the type of its input.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Source,
    bias: Option<Tensor>,
    ops: Ops,
}

/// Where the weight is.
#[derive(Clone, Debug)]
enum Source {
    Plain(Weight<Arc<Panels>>),
    Coded(CodedMatrix),
    /// Decoded by candle's operations.
    OnDevice(DeviceMatrix),
}

impl Linear {
    /// Reads `weight` `[out, in]` and, with `bias`, `bias` `[out]`.
    pub fn load(
        weights: &Weights,
        inputs: usize,
        outputs: usize,
        bias: bool,
    ) -> std::result::Result<Self, CheckpointError> {
        let weight = weights.matrix("weight", [outputs, inputs])?;
        let bias = bias.then(|| weights.get_f32("bias", &[outputs])).transpose()?;
        Ok(Self::of(weights.ops(), weight, bias)?)
    }

    /// Reads a convolution whose kernel is one pixel: `weight` `[out, in, 1, ..]` with `axes` axes of length
    /// 1, and `bias` `[out]`.
    pub fn load_pointwise(
        weights: &Weights,
        inputs: usize,
        outputs: usize,
        axes: usize,
    ) -> std::result::Result<Self, CheckpointError> {
        let mut shape = vec![outputs, inputs];
        shape.resize(2 + axes, 1);
        let weight = weights.get("weight", &shape)?.reshape((outputs, inputs))?;
        Ok(Self::new(weights.ops(), weight, Some(weights.get_f32("bias", &[outputs])?))?)
    }

    /// From a weight `[out, in]` and a bias `[out]`.
    pub fn new(ops: Ops, weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        if outputs == 0 || inputs == 0 {
            candle_core::bail!("linear: a weight of {:?} has nothing in it", weight.shape());
        }
        if let Some(bias) = &bias
            && bias.dims() != [outputs]
        {
            candle_core::bail!("linear: bias {:?} for {outputs} outputs", bias.shape());
        }
        let bias = bias.map(|bias| bias.to_dtype(DType::F32)?.contiguous()).transpose()?;
        let weight = Source::Plain(Weight::new(ops, weight, panels)?);
        Ok(Self { weight, bias, ops })
    }

    /// From a weight in either form, `[out, in]`, and a bias `[out]` in f32.
    pub(super) fn of(ops: Ops, weight: Matrix, bias: Option<Tensor>) -> Result<Self> {
        match weight {
            Matrix::Plain(weight) => Self::new(ops, weight, bias),
            Matrix::Coded(weight) if weight.device().is_cpu() => {
                Ok(Self { weight: Source::Coded(weight), bias, ops })
            }
            Matrix::Coded(weight) => match weight.on_device()? {
                Some(weight) => Ok(Self { weight: Source::OnDevice(weight), bias, ops }),
                None => Ok(Self { weight: Source::Coded(weight), bias, ops }),
            },
        }
    }

    /// The operations it uses, for the code between layers.
    pub fn ops(&self) -> Ops {
        self.ops
    }

    fn dims(&self) -> Result<(usize, usize)> {
        match &self.weight {
            Source::Plain(Weight::Stored(weight)) => weight.dims2(),
            Source::Plain(Weight::Prepared(panels)) => Ok((panels.outputs(), panels.inputs())),
            Source::Coded(weight) => Ok((weight.rows(), weight.inputs())),
            Source::OnDevice(weight) => Ok(weight.dims()),
        }
    }

    /// `[.., in]` to `[.., out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self.panels(x)? {
            Some(weight) => self.run(x, &weight, &()),
            None => self.then(x, RowOp::Bias),
        }
    }

    /// Preceded by [`layer_norm_modulate`] of `x`, or of `x + residual`; for the few outputs of a network's
    /// last layer.
    pub fn forward_modulated(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        shift: &Tensor,
        scale: &Tensor,
        eps: f64,
    ) -> Result<Tensor> {
        let adapted = self.down().is_some();
        let Some(weight) = self.panels(x)?.filter(|_| !adapted) else {
            let x = residual.map_or(Ok(x.clone()), |residual| x + residual)?;
            return self.forward(&layer_norm_modulate(self.ops, &x, shift, scale, eps)?);
        };
        let (like, shape) = (x.dims3()?.into(), self.shape_for(x)?);
        let residual = residual.map(Tensor::contiguous).transpose()?;
        let residual = residual.as_ref().map(held);
        let (shift, scale, bias) = (held(shift), held(scale), self.bias());
        let kernel = ModulateRows {
            eps: eps as f32,
            residual: residual.as_ref().map(|residual| residual.shaped(x.dims())).transpose()?,
            shift: modulation::Rows::new(&shift, like)?,
            scale: modulation::Rows::new(&scale, like)?,
        };
        let layer = layer(&weight, bias.as_ref())?;
        compute("linear-modulated", x, shape, |x| matmul::multiply_rows(x, &kernel, layer))
    }

    /// Followed by [`gelu_tanh`](crate::gelu_tanh).
    pub fn forward_gelu_tanh(&self, x: &Tensor) -> Result<Tensor> {
        match self.panels(x)? {
            Some(weight) => self.run(x, &weight, &GeluTanh),
            None => self.then(x, RowOp::Gelu),
        }
    }

    /// Followed by [`gelu_erf`].
    pub fn forward_gelu_erf(&self, x: &Tensor) -> Result<Tensor> {
        match self.panels(x)? {
            Some(weight) => self.run(x, &weight, &GeluErf),
            None => gelu_erf(self.ops, &self.then(x, RowOp::Bias)?),
        }
    }

    /// Multiplied by `other`, of the result's shape.
    pub fn forward_times(&self, x: &Tensor, other: &Tensor) -> Result<Tensor> {
        let Some(weight) = self.panels(x)? else { return self.then(x, RowOp::Bias)? * other };
        let other = other.contiguous()?;
        self.run(x, &weight, &then::Times(held(&other).shaped(&self.shape_for(x)?)?))
    }

    /// Added to `residual`, of the result's shape.
    pub fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let Some(weight) = self.panels(x)? else { return self.then(x, RowOp::Add { residual }) };
        let residual = residual.contiguous()?;
        self.run(x, &weight, &then::Add(held(&residual).shaped(&self.shape_for(x)?)?))
    }

    /// Multiplied by a gate and added to `residual`: see [`gated_add`](crate::gated_add).
    pub fn forward_gated_add(&self, x: &Tensor, residual: &Tensor, gate: &Tensor) -> Result<Tensor> {
        let Some(weight) = self.panels(x)? else {
            return self.then(x, RowOp::GatedAdd { residual, gate });
        };
        let like = residual.dims3()?.into();
        let residual = residual.contiguous()?;
        let (residual, gate) = (held(&residual), held(gate));
        let gate = modulation::Rows::new(&gate, like)?;
        self.run(x, &weight, &then::GatedAdd { values: residual.shaped(&self.shape_for(x)?)?, gate })
    }

    /// Followed by a norm over the whole row.
    pub fn forward_rms_norm(&self, x: &Tensor, norm: &RmsNorm) -> Result<Tensor> {
        let Some(weight) = self.panels(x)? else { return self.then(x, norm.as_op()) };
        let scale = held(norm.weight());
        let scale = scale.shaped(&[weight.outputs()])?;
        self.run(x, &weight, &RmsNormRows { eps: norm.eps() as f32, weight: scale })
    }

    /// Followed by [`rms_norm_rotary`](crate::rms_norm_rotary).
    pub fn forward_rms_norm_rotary(&self, x: &Tensor, norm: &RmsNorm, table: &RotaryTable) -> Result<Tensor> {
        table.check(&self.shape_for(x)?.into(), norm.weight())?;
        let Some(weight) = self.panels(x)? else {
            return self.then(x, RowOp::Turn { weight: norm.weight(), table, eps: norm.eps() });
        };
        let (scale, turns) = (held(norm.weight()), held(table.values()));
        let half = table.values().dim(2)?;
        let rows = TurnedRows::new(scale.values()?, turns.values()?, half, norm.eps() as f32);
        self.run(x, &weight, &rows)
    }

    /// The shape of the result.
    pub(super) fn shape_for(&self, x: &Tensor) -> Result<Vec<usize>> {
        self.shape_of(x.dims())
    }

    /// The same for an input of this shape.
    pub(super) fn shape_of(&self, shape: &[usize]) -> Result<Vec<usize>> {
        let (outputs, inputs) = self.dims()?;
        match shape {
            [rest @ .., last] if *last == inputs => Ok([rest, &[outputs]].concat()),
            _ => candle_core::bail!("linear: got {shape:?}, expected {inputs} channels"),
        }
    }

    /// The weight in the order of products, if it is stored that way.
    pub(super) fn kept_panels(&self) -> Option<&Panels> {
        match &self.weight {
            Source::Plain(Weight::Prepared(panels)) => Some(panels),
            Source::Plain(Weight::Stored(_)) | Source::Coded(_) | Source::OnDevice(_) => None,
        }
    }

    /// What adapters beside a coded weight multiply the input by: the results are further inputs.
    fn down(&self) -> Option<&Tensor> {
        match &self.weight {
            Source::Coded(weight) => weight.down(),
            Source::OnDevice(weight) => weight.down(),
            Source::Plain(_) => None,
        }
    }

    /// The input as the weight's columns take it.
    fn continued(&self, x: &Tensor) -> Result<Tensor> {
        let Some(down) = self.down() else { return Ok(x.clone()) };
        let down = down.to_device(x.device())?.to_dtype(x.dtype())?;
        let low = x.reshape(((), down.dim(1)?))?.matmul(&down.t()?)?;
        let shape = [&x.dims()[..x.rank() - 1], &[down.dim(0)?]].concat();
        Tensor::cat(&[x, &low.reshape(shape)?], D::Minus1)
    }

    /// The weight in the order of products, if our kernels apply.
    fn panels(&self, x: &Tensor) -> Result<Option<Arc<Panels>>> {
        let weight = match &self.weight {
            Source::Plain(weight) => weight.of_product(self.ops, x, panels)?,
            Source::Coded(weight) if on_cpu(self.ops, x) => Weight::Prepared(Arc::new(decoded(weight))),
            Source::Coded(_) | Source::OnDevice(_) => return Ok(None),
        };
        Ok(match weight {
            Weight::Prepared(panels) => Some(panels),
            Weight::Stored(_) => None,
        })
    }

    /// candle's product, the bias, and what follows.
    fn then(&self, x: &Tensor, op: RowOp) -> Result<Tensor> {
        op.run(self.ops, &self.product(x)?, self.bias.as_ref())
    }

    /// candle's product, without the bias.
    fn product(&self, x: &Tensor) -> Result<Tensor> {
        let shape = self.shape_for(x)?;
        let weight = match &self.weight {
            Source::Plain(Weight::Stored(weight)) => weight.clone(),
            Source::Coded(weight) => weight.to_tensor()?.to_device(x.device())?,
            Source::OnDevice(weight) => weight.decode(x.dtype())?,
            Source::Plain(Weight::Prepared(_)) => candle_core::bail!(
                "linear: got {:?} on {:?}, the weight is f32 on the CPU",
                x.dtype(),
                x.device()
            ),
        };
        let x = self.continued(x)?;
        x.reshape(((), weight.dim(1)?))?.matmul(&weight.to_dtype(x.dtype())?.t()?)?.reshape(shape)
    }

    fn run(&self, x: &Tensor, weight: &Panels, then: &impl Finish) -> Result<Tensor> {
        let (shape, bias) = (self.shape_for(x)?, self.bias());
        let layer = layer(weight, bias.as_ref())?;
        compute("linear", &self.continued(x)?, shape, |x| matmul::multiply(x, layer, then))
    }

    /// The bias, for [`layer`].
    pub(super) fn bias(&self) -> Option<Held<'_>> {
        self.bias.as_ref().map(held)
    }
}

fn held(x: &Tensor) -> Held<'_> {
    Held::new("linear", x)
}

/// What products take of a layer.
pub(super) fn layer<'a>(weight: &'a Panels, bias: Option<&'a Held<'_>>) -> Result<Layer<'a>> {
    let bias = bias.map(|bias| bias.shaped(&[weight.outputs()])).transpose()?;
    Ok(Layer { weight, bias })
}

fn panels(weight: &Tensor) -> Result<Arc<Panels>> {
    let (outputs, inputs) = weight.dims2()?;
    let weight = weight.contiguous()?;
    Ok(Arc::new(Panels::from_columns(Values::of(&held(&weight))?, inputs, inputs, outputs)))
}

fn decoded(weight: &CodedMatrix) -> Panels {
    Panels::of_columns(weight.columns(), weight.rows(), |column, start, to| weight.decode(column, start, to))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::{
        rms_norm_rotary,
        testing::{largest, random, worst},
    };

    #[test]
    fn half_precision_weights_give_what_their_f32_values_give() -> Result<()> {
        let weight = random(&[70, 33])?;
        let bias = random(&[70])?;
        let x = random(&[2, 5, 33])?;
        for dtype in [DType::BF16, DType::F16, DType::F32] {
            let stored = weight.to_dtype(dtype)?;
            let plain = x.broadcast_matmul(&stored.to_dtype(DType::F32)?.t()?)?.broadcast_add(&bias)?;
            let ours = Linear::new(Ops::Kernels, stored, Some(bias.clone()))?.forward(&x)?;
            assert_eq!(ours.dims(), [2, 5, 70]);
            let error = worst(&ours, &plain)?;
            assert!(error < 1e-5, "{dtype:?} {error}");
        }
        Ok(())
    }

    /// A layer, an input for it, and candle's result.
    fn layer(dtype: DType) -> Result<(Linear, Tensor, Tensor)> {
        let (weight, bias) = (random(&[24, 801])?.to_dtype(dtype)?, random(&[24])?);
        let x = random(&[2, 7, 801])?;
        let plain = x.broadcast_matmul(&weight.to_dtype(DType::F32)?.t()?)?.broadcast_add(&bias)?;
        Ok((Linear::new(Ops::Kernels, weight, Some(bias))?, x, plain))
    }

    fn close(what: &str, ours: &Tensor, plain: &Tensor) -> Result<()> {
        assert_eq!(ours.dims(), plain.dims(), "{what}");
        let (error, scale) = (worst(ours, plain)?, largest(plain)?);
        assert!(error < 2e-6 * scale, "{what}: {error} of {scale}");
        Ok(())
    }

    #[test]
    fn what_follows_at_once_is_what_follows_after_candles_product() -> Result<()> {
        for dtype in [DType::F32, DType::BF16] {
            let (layer, x, plain) = layer(dtype)?;
            // Views, as the models pass them.
            let other = random(&[2, 24, 7])?.transpose(1, 2)?;
            let gate = random(&[2, 1, 72])?.narrow(2, 24, 24)?;
            close("product", &layer.forward(&x)?, &plain)?;
            close("gelu", &layer.forward_gelu_tanh(&x)?, &plain.gelu()?)?;
            close("gelu_erf", &layer.forward_gelu_erf(&x)?, &plain.gelu_erf()?)?;
            close("times", &layer.forward_times(&x, &other)?, &(&plain * &other)?)?;
            close("add", &layer.forward_add(&x, &other)?, &(&plain + &other)?)?;
            let gated = (&other + plain.broadcast_mul(&gate)?)?;
            close("gated", &layer.forward_gated_add(&x, &other, &gate)?, &gated)?;

            let norm = RmsNorm::new(Ops::Kernels, random(&[24])?, 1e-3);
            close("norm", &layer.forward_rms_norm(&x, &norm)?, &norm.forward(&plain)?)?;
            let angles: Vec<f32> = (0..7 * 4).map(|i| i as f32 * 0.37).collect();
            let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
            let table = RotaryTable::new(cos, &sin, 7, &Device::Cpu)?;
            for width in [24, 8] {
                let norm = RmsNorm::new(Ops::Kernels, random(&[width])?, 1e-3);
                let turned = rms_norm_rotary(Ops::Kernels, &plain, norm.weight(), &table, norm.eps())?;
                close("turned", &layer.forward_rms_norm_rotary(&x, &norm, &table)?, &turned)?;
            }
            for inputs in [401, 1600] {
                let layer = Linear::new(Ops::Kernels, random(&[24, inputs])?, None)?;
                assert_eq!(layer.forward(&random(&[2, 0, inputs])?)?.dims(), [2, 0, 24]);
            }
            let (shift, scale) = (random(&[2, 7, 801])?, random(&[1, 1, 801])?);
            let modulated = layer.forward_modulated(&x, None, &shift, &scale, 1e-3)?;
            let normed = layer_norm_modulate(Ops::Kernels, &x, &shift, &scale, 1e-3)?;
            close("modulated", &modulated, &layer.forward(&normed)?)?;
            let many = random(&[1, 200, 801])?;
            let (shift, scale) = (random(&[1, 200, 801])?, random(&[1, 200, 801])?);
            let modulated = layer.forward_modulated(&many, None, &shift, &scale, 1e-3)?;
            let normed = layer_norm_modulate(Ops::Kernels, &many, &shift, &scale, 1e-3)?;
            close("modulated", &modulated, &layer.forward(&normed)?)?;
            let residual = random(&[1, 801, 200])?.transpose(1, 2)?;
            let modulated = layer.forward_modulated(&many, Some(&residual), &shift, &scale, 1e-3)?;
            let normed = layer_norm_modulate(Ops::Kernels, &(&many + &residual)?, &shift, &scale, 1e-3)?;
            close("modulated sum", &modulated, &layer.forward(&normed)?)?;
            // One row is split by columns.
            let (row, plain) = (x.get(0)?.narrow(0, 3, 1)?, plain.get(0)?.narrow(0, 3, 1)?);
            close("one row", &layer.forward(&row)?, &plain)?;
            close("one row", &layer.forward_add(&row, &plain)?, &(&plain * 2.0)?)?;
        }
        Ok(())
    }

    #[test]
    fn what_follows_must_fit() -> Result<()> {
        let (layer, x, plain) = layer(DType::F32)?;
        assert!(layer.forward_add(&x, &x).is_err() && layer.forward_times(&x, &x).is_err());
        let rows = Tensor::zeros((1, 1, 801), DType::F32, &Device::Cpu)?;
        assert!(layer.forward_modulated(&x, Some(&rows), &rows, &rows, 1e-3).is_err());
        assert!(layer.forward_gated_add(&x, &plain, &x).is_err());
        let norm = RmsNorm::new(Ops::Kernels, Tensor::ones(23, DType::F32, &Device::Cpu)?, 1e-3);
        assert!(layer.forward_rms_norm(&x, &norm).is_err());
        let table = RotaryTable::new(vec![1.0; 6 * 4], &[0.0; 6 * 4], 6, &Device::Cpu)?;
        assert!(layer.forward_rms_norm_rotary(&x, &norm, &table).is_err());
        Ok(())
    }

    #[test]
    fn refuses_shapes_that_do_not_fit() -> Result<()> {
        for empty in [(0, 3), (3, 0)] {
            let weight = Tensor::zeros(empty, DType::F32, &Device::Cpu)?;
            let message =
                Linear::new(Ops::Kernels, weight, None).expect_err("nothing to multiply").to_string();
            assert!(message.contains("nothing in it"), "{message}");
        }
        let weight = Tensor::zeros((4, 3), DType::F32, &Device::Cpu)?;
        assert!(
            Linear::new(Ops::Kernels, weight.clone(), Some(Tensor::zeros(3, DType::F32, &Device::Cpu)?))
                .is_err()
        );
        let x = Tensor::zeros((2, 4), DType::F32, &Device::Cpu)?;
        let message =
            Linear::new(Ops::Kernels, weight, None)?.forward(&x).expect_err("4 channels for 3").to_string();
        assert!(message.contains("expected 3"), "{message}");
        Ok(())
    }
}
