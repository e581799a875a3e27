//! Two page-locked buffers on the way to an NVIDIA GPU: while one is copied, the other is filled.
#![expect(unsafe_code, reason = "memory is allocated before it is written, and seen as the bytes in it")]

use std::{mem::size_of_val, slice, sync::Arc};

use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, Result, Storage, Tensor, bail,
    cuda_backend::{
        CudaStorageSlice, WrapErr,
        cudarc::driver::{CudaEvent, CudaSlice, CudaStream, DeviceRepr, PinnedHostSlice},
    },
    op::BackpropOp,
};

/// Bytes of a buffer: a millisecond of a copy.
const BUFFER: usize = 32 << 20;

#[derive(Debug)]
pub(super) struct Staging {
    /// Copies alone, so that they wait for no kernel.
    copies: Arc<CudaStream>,
    /// The stream of the device, which all tensors belong to.
    computes: Arc<CudaStream>,
    buffers: [Buffer; 2],
}

#[derive(Debug)]
struct Buffer {
    bytes: PinnedHostSlice<u8>,
    /// When its last copy has ended.
    copied: Option<CudaEvent>,
}

impl Buffer {
    fn new(copies: &CudaStream) -> Result<Self> {
        // SAFETY: only what was written is read.
        let bytes = unsafe { copies.context().alloc_pinned(BUFFER) }.w()?;
        Ok(Self { bytes, copied: None })
    }
}

impl Drop for Buffer {
    /// Its memory is given back, so its last copy has to end.
    fn drop(&mut self) {
        _ = self.copied.as_ref().map(CudaEvent::synchronize);
    }
}

impl Staging {
    pub(super) fn new(device: &CudaDevice) -> Result<Self> {
        let computes = device.cuda_stream();
        let copies = computes.context().new_stream().w()?;
        let buffers = [Buffer::new(&copies)?, Buffer::new(&copies)?];
        Ok(Self { copies, computes, buffers })
    }

    /// Begins the copy of a contiguous tensor of the host and waits at most until its last bytes are in a
    /// buffer.
    pub(super) fn upload(&mut self, tensor: &Tensor, device: &CudaDevice) -> Result<Tensor> {
        let (storage, layout) = tensor.storage_and_layout();
        let (Storage::Cpu(values), Some((start, end))) = (&*storage, layout.contiguous_offsets()) else {
            bail!("expected a contiguous tensor on the host")
        };
        let slice = match values {
            CpuStorage::F32(values) => CudaStorageSlice::F32(self.copy(&values[start..end])?),
            CpuStorage::F16(values) => CudaStorageSlice::F16(self.copy(&values[start..end])?),
            CpuStorage::BF16(values) => CudaStorageSlice::BF16(self.copy(&values[start..end])?),
            CpuStorage::F8E4M3(values) => CudaStorageSlice::F8E4M3(self.copy(&values[start..end])?),
            _ => bail!("weights of type {:?}", tensor.dtype()),
        };
        let storage = Storage::Cuda(CudaStorage { slice, device: device.clone() });
        Ok(Tensor::from_storage(storage, tensor.shape().clone(), BackpropOp::none(), false))
    }

    /// An event in the slice makes the stream of the device wait for the copies where it is used.
    fn copy<T: DeviceRepr>(&mut self, values: &[T]) -> Result<CudaSlice<T>> {
        // SAFETY: the copies write all of it.
        let memory = unsafe { self.copies.alloc::<T>(values.len()) }.w()?;
        // Waits of candle are those of the stream that a slice belongs to, and so is its end.
        // SAFETY: it is the memory of as many values, which nobody else frees.
        let mut out = unsafe { self.computes.upgrade_device_ptr::<T>(memory.leak(), values.len()) };
        let len = size_of_val(values);
        // SAFETY: numbers are bytes, of any value.
        let bytes = unsafe { slice::from_raw_parts(values.as_ptr().cast::<u8>(), len) };
        // SAFETY: as above, on the device.
        let Some(mut all) = (unsafe { out.transmute_mut::<u8>(len) }) else {
            bail!("{len} bytes for {} values", values.len())
        };
        for (i, piece) in bytes.chunks(BUFFER).enumerate() {
            let [buffer, _] = &mut self.buffers;
            if let Some(copied) = buffer.copied.take() {
                copied.synchronize().w()?;
            }
            let staged = buffer.bytes.as_mut_slice().w()?;
            let Some(staged) = staged.get_mut(..piece.len()) else { bail!("a piece larger than a buffer") };
            staged.copy_from_slice(piece);
            let at = i * BUFFER;
            let mut place = all.slice_mut(at..at + piece.len());
            self.copies.memcpy_htod(&*staged, &mut place).w()?;
            match self.copies.record_event(None) {
                Ok(copied) => buffer.copied = Some(copied),
                // Nothing says when the buffer is free again.
                Err(_) => self.copies.synchronize().w()?,
            }
            self.buffers.swap(0, 1);
        }
        Ok(out)
    }
}
