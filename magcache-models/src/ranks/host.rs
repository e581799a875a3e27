//! Tensors as bytes of the control plane: for ranks without a fabric of their own between devices.

use candle_core::{Device, Result, Tensor};
use magcache_core::{Group, hint};
use safetensors::View;

use super::DataPlane;

/// Tensors through the memory of the hosts.
#[derive(Clone, Debug)]
pub struct HostPlane(Group);

impl HostPlane {
    /// Between the ranks of a group.
    pub fn new(group: Group) -> Self {
        Self(group)
    }
}

/// The values of a tensor, row by row.
pub(super) fn to_bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    Ok(View::data(&tensor.to_device(&Device::Cpu)?.contiguous()?).into_owned())
}

impl DataPlane for HostPlane {
    fn place(&self) -> usize {
        self.0.place()
    }

    fn size(&self) -> usize {
        self.0.size()
    }

    fn all_to_all(&self, about: &str, parts: Vec<Tensor>, shapes: &[Vec<usize>]) -> Result<Vec<Tensor>> {
        let own = self.place();
        let Some(mine) = parts.get(own).cloned() else {
            candle_core::bail!("{about}: no part for rank {}", self.0.rank(own))
        };
        let to_other =
            |(place, part): (usize, &Tensor)| if place == own { Ok(Vec::new()) } else { to_bytes(part) };
        let bytes = parts.iter().enumerate().map(to_other).collect::<Result<Vec<_>>>()?;
        let (dtype, device) = (mine.dtype(), mine.device().clone());
        let all = self.0.exchange(about, bytes).map_err(hint::wrap)?;
        let from_other = |(place, (bytes, shape)): (usize, (Vec<u8>, &Vec<usize>))| {
            if place == own {
                return Ok(mine.clone());
            }
            let wanted = shape.iter().product::<usize>() * dtype.size_in_bytes();
            if bytes.len() != wanted {
                let rank = self.0.rank(place);
                candle_core::bail!("{about}: {} bytes from rank {rank}, expected {wanted}", bytes.len());
            }
            Tensor::from_raw_buffer(&bytes, dtype, shape, &device)
        };
        all.into_iter().zip(shapes).enumerate().map(from_other).collect()
    }
}
