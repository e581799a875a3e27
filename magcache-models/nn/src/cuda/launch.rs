//! Starts the kernels of `rows.cu`.
#![expect(
    unsafe_code,
    reason = "kernels are started with pointers, to tensors whose sizes `Call::of` has checked"
)]

use std::ops::Deref;

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, DType, Layout, Result, Shape, Storage, Tensor,
    backend::BackendStorage,
    cuda_backend::{
        CudaDType, WrapErr,
        cudarc::driver::{CudaView, DeviceRepr, LaunchConfig, PushKernelArg},
    },
};
use half::{bf16, f16};

use super::call::{Argument, Call};

/// The kernels, for the card that this is built for.
const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/rows.ptx"));

/// Lanes of a warp.
const LANES: u32 = 32;

/// Warps of a block, which need nothing of each other.
const WARPS: u32 = 4;

impl Call {
    pub(super) fn launch(&self) -> Result<Tensor> {
        self.input.apply_op1_no_bwd(self)
    }

    fn start<T: CudaDType + DeviceRepr>(&self, suffix: &str, x: &CudaStorage) -> Result<CudaStorage> {
        let device = x.device();
        let input = Operand::new(&self.input);
        let input = input.values::<T>()?;
        let operands: Vec<Option<Operand>> = self.arguments.iter().map(Operand::of).collect();
        let values = self.arguments.iter().zip(&operands).map(|(argument, operand)| {
            Ok(match (argument, operand) {
                (Argument::Own(_), Some(operand)) => Value::Own(operand.values::<T>()?),
                (_, Some(operand)) => Value::Floats(operand.values::<f32>()?),
                (other, None) => Value::Other(other),
            })
        });
        let values = values.collect::<Result<Vec<Value<T>>>>()?;

        let name = format!("{}_{suffix}", self.kernel);
        let function = device.get_or_load_custom_func(&name, "magcache_rows", PTX)?;
        // SAFETY: the kernel writes every value, a warp those of a row or of a norm.
        let out = unsafe { device.alloc::<T>(input.len())? };
        let mut args = function.builder();
        args.arg(&input).arg(&out);
        for value in &values {
            match value {
                Value::Own(values) => args.arg(values),
                Value::Floats(values) => args.arg(values),
                Value::Other(Argument::Count(count)) => args.arg(count),
                Value::Other(Argument::Size(size)) => args.arg(size),
                Value::Other(Argument::Number(number)) => args.arg(number),
                // A null pointer.
                Value::Other(Argument::Floats(_) | Argument::Own(_)) => args.arg(&0u64),
            };
        }
        let blocks = u32::try_from(self.warps.div_ceil(WARPS as usize)).map_err(candle_core::Error::wrap)?;
        let config =
            LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (LANES, WARPS, 1), shared_mem_bytes: 0 };
        // SAFETY: `Call::of` gives each kernel its own arguments, of its types and in its order.
        unsafe { args.launch(config) }.w()?;
        Ok(CudaStorage::wrap_cuda_slice(out, device.clone()))
    }
}

impl CustomOp1 for Call {
    fn name(&self) -> &'static str {
        self.kernel
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        candle_core::bail!("{}: a kernel for NVIDIA GPUs, on a CPU", self.kernel)
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let y = match x.dtype() {
            DType::F32 => self.start::<f32>("f32", x),
            DType::F16 => self.start::<f16>("f16", x),
            DType::BF16 => self.start::<bf16>("bf16", x),
            other => candle_core::bail!("{}: no kernel for {other:?}", self.kernel),
        };
        Ok((y?, layout.shape().clone()))
    }
}

/// An argument as the driver takes it.
enum Value<'a, T> {
    Floats(CudaView<'a, f32>),
    Own(CudaView<'a, T>),
    Other(&'a Argument),
}

/// A tensor whose values are being read.
struct Operand<'a> {
    storage: Box<dyn Deref<Target = Storage> + 'a>,
    layout: &'a Layout,
}

impl<'a> Operand<'a> {
    fn new(x: &'a Tensor) -> Self {
        let (storage, layout) = x.storage_and_layout();
        Self { storage: Box::new(storage), layout }
    }

    fn of(argument: &'a Argument) -> Option<Self> {
        match argument {
            Argument::Floats(Some(x)) | Argument::Own(x) => Some(Self::new(x)),
            _ => None,
        }
    }

    /// Of a contiguous tensor, or all from the first value of a view on.
    fn values<T: CudaDType>(&self) -> Result<CudaView<'_, T>> {
        let Storage::Cuda(storage) = &**self.storage else {
            candle_core::bail!("a tensor of {:?} is not on the GPU", self.layout.dims())
        };
        let values = storage.as_cuda_slice::<T>()?;
        Ok(match self.layout.contiguous_offsets() {
            Some((start, end)) => values.slice(start..end),
            None => values.slice(self.layout.start_offset()..),
        })
    }
}
