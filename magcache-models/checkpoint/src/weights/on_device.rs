//! Coded matrices on a device, which decodes them.

use std::sync::Arc;

use candle_core::{
    DType, Device, Result, Tensor,
    quantized::{GgmlDType, QStorage, QTensor},
};
use half::f16;

use super::matrix::CodedMatrix;
use crate::number::NumberFormat;

/// A [`CodedMatrix`] whose codes are in the memory of the device that computes. They are decoded there, all
/// of them, for each product: a model takes no more of that memory than its file, and one decoded layer.
#[derive(Clone, Debug)]
pub struct DeviceMatrix {
    codes: Codes,
    /// f32 `[rows or 1, 1]`.
    scale: Option<Tensor>,
    /// What adapters beside it multiply by, f32: `[rank, inputs]` and `[rows, rank]`.
    beside: Option<(Tensor, Tensor)>,
    shape: [usize; 2],
}

/// `[rows, inputs]`.
#[derive(Clone, Debug)]
enum Codes {
    /// Blocks of a GGUF file, which candle's kernels decode.
    Blocks(Arc<QTensor>),
    /// Values of a byte, or those of two that they fit in.
    Floats(Tensor),
}

impl CodedMatrix {
    /// The matrix on the device that its weights are for; `None` if candle has no kernel for these codes, or
    /// if they cannot be cut where its columns begin and end.
    ///
    /// # Errors
    /// Too little memory there.
    pub fn on_device(&self) -> Result<Option<DeviceMatrix>> {
        let Some(bytes) = self.packed() else { return Ok(None) };
        let (device, shape) = (self.device(), [self.rows(), self.inputs()]);
        let codes = match self.format() {
            NumberFormat::F8E4M3 => {
                let values = Tensor::from_raw_buffer(&bytes, DType::F8E4M3, &shape, &Device::Cpu)?;
                Codes::Floats(self.uploads().place(&values)?)
            }
            NumberFormat::F8E5M2 => {
                let values = bytes.iter().map(|byte| f16::from_bits(u16::from(*byte) << 8));
                let values = Tensor::from_vec(values.collect::<Vec<_>>(), shape.to_vec(), &Device::Cpu)?;
                Codes::Floats(self.uploads().place(&values)?)
            }
            format => {
                let Some(dtype) = ggml(format) else { return Ok(None) };
                let storage = QStorage::from_data(bytes.into(), device, dtype)?;
                Codes::Blocks(Arc::new(QTensor::new(storage, shape.to_vec())?))
            }
        };
        let scale = self.scales().map(|scales| {
            let rows = scales.len();
            Tensor::from_vec(scales, (rows, 1), device)
        });
        let beside = self.beside_on(device)?;
        Ok(Some(DeviceMatrix { codes, scale: scale.transpose()?, beside, shape }))
    }
}

impl DeviceMatrix {
    /// Rows and inputs: values of a row, those of adapters not counted.
    pub fn dims(&self) -> (usize, usize) {
        self.shape.into()
    }

    /// What the adapters beside it multiply an input by, f32 `[rank, inputs]`; the results follow the input
    /// in a product.
    pub fn down(&self) -> Option<&Tensor> {
        self.beside.as_ref().map(|(down, _)| down)
    }

    /// All values in a type, `[rows, inputs + rank]`.
    pub fn decode(&self, dtype: DType) -> Result<Tensor> {
        let values = match &self.codes {
            // Without a way through f32.
            Codes::Blocks(blocks) if dtype == DType::F16 => blocks.dequantize_f16(&blocks.device())?,
            Codes::Blocks(blocks) => blocks.dequantize(&blocks.device())?,
            Codes::Floats(values) if self.scale.is_none() => values.to_dtype(dtype)?,
            Codes::Floats(values) => values.to_dtype(DType::F32)?,
        };
        let values = match &self.scale {
            Some(scale) => values.to_dtype(DType::F32)?.broadcast_mul(scale)?,
            None => values,
        };
        let values = values.to_dtype(dtype)?;
        match &self.beside {
            Some((_, up)) => Tensor::cat(&[values, up.to_dtype(dtype)?], 1),
            None => Ok(values),
        }
    }

    /// Where its codes are.
    pub fn device(&self) -> Device {
        match &self.codes {
            Codes::Blocks(blocks) => blocks.device(),
            Codes::Floats(values) => values.device().clone(),
        }
    }
}

/// candle's name of the codes of a GGUF file.
fn ggml(format: NumberFormat) -> Option<GgmlDType> {
    Some(match format {
        NumberFormat::Q4_0 => GgmlDType::Q4_0,
        NumberFormat::Q4_1 => GgmlDType::Q4_1,
        NumberFormat::Q5_0 => GgmlDType::Q5_0,
        NumberFormat::Q5_1 => GgmlDType::Q5_1,
        NumberFormat::Q8_0 => GgmlDType::Q8_0,
        NumberFormat::Q2K => GgmlDType::Q2K,
        NumberFormat::Q3K => GgmlDType::Q3K,
        NumberFormat::Q4K => GgmlDType::Q4K,
        NumberFormat::Q5K => GgmlDType::Q5K,
        NumberFormat::Q6K => GgmlDType::Q6K,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use safetensors::{Dtype, tensor::TensorView};

    use super::*;
    use crate::{Matrix, WeightDtype, Weights};

    /// Every code of a byte that is a number, in two rows with a scale each.
    fn tiny_floats(dtype: Dtype, is_number: impl Fn(u8) -> bool) -> CodedMatrix {
        let codes: Vec<u8> = (0..=u8::MAX).map(|code| if is_number(code) { code } else { 0 }).collect();
        let scales: Vec<u8> = [0.75f32, -3.0].into_iter().flat_map(f32::to_le_bytes).collect();
        let codes = TensorView::new(dtype, vec![2, 128], &codes).expect("fits");
        let scales = TensorView::new(Dtype::F32, vec![2], &scales).expect("fits");
        let file =
            safetensors::serialize([("a.weight", codes), ("a.weight_scale", scales)], None).expect("fits");
        let weights = Weights::from_bytes("f", file, &Device::Cpu, WeightDtype::Keep).expect("reads");
        match weights.matrix("a.weight", [2, 128]).expect("is there") {
            Matrix::Coded(matrix) => matrix,
            Matrix::Plain(_) => panic!("was decoded"),
        }
    }

    #[test]
    fn tiny_floats_and_their_scales_are_those_that_the_cpu_decodes() -> Result<()> {
        let e4m3 = tiny_floats(Dtype::F8_E4M3, |code| code & 0x7f != 0x7f);
        let e5m2 = tiny_floats(Dtype::F8_E5M2, |code| code & 0x7c != 0x7c);
        for matrix in [e4m3, e5m2] {
            let moved = matrix.on_device()?.expect("candle decodes it");
            assert_eq!(moved.decode(DType::F32)?.to_vec2::<f32>()?, matrix.to_tensor()?.to_vec2::<f32>()?);
            let part = Matrix::Coded(matrix.clone()).narrow_columns(5, 7)?;
            let Matrix::Coded(part) = part else { panic!("was decoded") };
            let moved = part.on_device()?.expect("codes of a byte are cut anywhere");
            assert_eq!(moved.dims(), (2, 7));
            assert_eq!(moved.decode(DType::F32)?.to_vec2::<f32>()?, part.to_tensor()?.to_vec2::<f32>()?);
        }
        Ok(())
    }
}
