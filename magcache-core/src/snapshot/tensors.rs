//! Tensors in a snapshot: their stored form, and the dtypes and devices that belong to them.

use std::collections::BTreeMap;

use candle_core::{DType, Device, DeviceLocation, Tensor};

use super::{Field, Reader, Snapshot, SnapshotError, Writer};

impl Snapshot {
    /// A snapshot from its tensors and values, stored elsewhere.
    pub fn from_parts(tensors: BTreeMap<String, Tensor>, values: BTreeMap<String, String>) -> Self {
        Self { tensors, values }
    }

    /// The tensors by path, each on its own device.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// A reader at the root. Tensors that were not on the host are restored to `device`, the model's.
    pub fn reader<'s>(&'s self, device: &'s Device) -> Reader<'s> {
        Reader { snapshot: self, device, path: String::new() }
    }
}

impl Writer<'_> {
    /// Writes a tensor at this place.
    pub fn tensor(&mut self, tensor: &Tensor) {
        self.snapshot.tensors.insert(self.path.clone(), tensor.clone());
    }
}

impl<'s> Reader<'s> {
    /// The model's device.
    pub fn device(&self) -> &'s Device {
        self.device
    }

    /// The tensor at this place, on the device where it was stored.
    ///
    /// # Errors
    /// No tensor is stored here.
    pub fn tensor(&self) -> Result<&'s Tensor, SnapshotError> {
        let tensor = self.snapshot.tensors.get(&self.path);
        tensor.ok_or_else(|| SnapshotError::Missing { path: self.path.clone() })
    }
}

impl Field for DType {
    fn write(&self, to: &mut Writer<'_>) {
        to.value(self.as_str());
    }

    fn read(from: &Reader<'_>) -> Result<Self, SnapshotError> {
        let value = from.value()?;
        value.parse().map_err(|_| from.odd("a dtype", value))
    }
}

/// The host, or the device that a snapshot is read for.
const HOST: &str = "cpu";
const DEVICE: &str = "device";

impl Field for Device {
    fn write(&self, to: &mut Writer<'_>) {
        to.value(if self.is_cpu() { HOST } else { DEVICE });
    }

    fn read(from: &Reader<'_>) -> Result<Self, SnapshotError> {
        match from.value()? {
            HOST => Ok(Self::Cpu),
            DEVICE => Ok(from.device().clone()),
            other => Err(from.odd("`cpu` or `device`", other)),
        }
    }
}

impl Field for DeviceLocation {
    fn write(&self, to: &mut Writer<'_>) {
        match self {
            Self::Cpu => to.value(HOST),
            Self::Cuda { gpu_id } => to.value(format!("cuda:{gpu_id}")),
            Self::Metal { gpu_id } => to.value(format!("metal:{gpu_id}")),
        }
    }

    fn read(from: &Reader<'_>) -> Result<Self, SnapshotError> {
        let value = from.value()?;
        let odd = || from.odd("`cpu`, `cuda:N` or `metal:N`", value);
        let number = |n: &str| n.parse().map_err(|_| odd());
        match value.split_once(':') {
            None if value == HOST => Ok(Self::Cpu),
            Some(("cuda", n)) => Ok(Self::Cuda { gpu_id: number(n)? }),
            Some(("metal", n)) => Ok(Self::Metal { gpu_id: number(n)? }),
            _ => Err(odd()),
        }
    }
}

impl Field for Tensor {
    fn write(&self, to: &mut Writer<'_>) {
        to.tensor(self);
        to.field("on", self.device());
    }

    fn read(from: &Reader<'_>) -> Result<Self, SnapshotError> {
        let moved = from.tensor()?.to_device(&from.field("on")?);
        moved.map_err(|e| SnapshotError::Tensor { path: from.path.clone(), message: e.to_string() })
    }

    fn tensor_bytes(&self) -> usize {
        self.elem_count() * self.dtype().size_in_bytes()
    }

    fn whole_tensor_bytes(&self) -> usize {
        if self.rank() == 3 { 0 } else { self.tensor_bytes() }
    }
}
