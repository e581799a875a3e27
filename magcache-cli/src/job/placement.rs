//! Turns typed devices and dtypes into the options for opening a model.

use anyhow::Result;
use candle_core::{DType, Device};
use magcache_models::{
    checkpoint::WeightDtype,
    pipeline::{LoadOptions, Offload},
};

use crate::{
    args::{Dtype, Placement},
    console::bad_input_with,
};

impl Placement {
    /// The options for opening the model.
    pub(crate) fn options(&self, offload: Offload, tile_vae: bool) -> Result<LoadOptions> {
        Ok(LoadOptions {
            device: self.device()?,
            dtype: self.dtype.weights(),
            offload,
            tile_vae,
            ops: self.ops,
        })
    }

    /// The device by its name.
    pub(crate) fn device(&self) -> Result<Device> {
        let name = self.device.as_str();
        let hint = if cfg!(feature = "cuda") {
            "is there an NVIDIA GPU, and a driver for it? --device cpu needs neither"
        } else {
            "this build computes on the CPU; NVIDIA GPUs need a build with --features cuda"
        };
        match name.split_once(':').unwrap_or((name, "0")) {
            ("cpu", _) => Ok(Device::Cpu),
            ("cuda", n) => match n.parse().map(Device::new_cuda) {
                Ok(Ok(device)) => Ok(device),
                Ok(Err(e)) => Err(bad_input_with(format!("cannot use device {name:?}: {e}"), hint)),
                Err(_) => Err(bad_input_with(format!("device {name:?} has no number"), "--device cuda:0")),
            },
            ("metal", _) => {
                let message =
                    format!("cannot use device {name:?}: no build of this program computes with Metal");
                Err(bad_input_with(message, "--device cpu"))
            }
            _ => Err(bad_input_with(format!("unknown device {name:?}"), "--device cpu, or cuda:N")),
        }
    }
}

impl Dtype {
    fn weights(self) -> WeightDtype {
        match self {
            Self::Auto => WeightDtype::Auto,
            Self::F32 => WeightDtype::Cast(DType::F32),
            Self::F16 => WeightDtype::Cast(DType::F16),
            Self::Bf16 => WeightDtype::Cast(DType::BF16),
        }
    }
}
