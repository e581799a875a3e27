//! Tensors of NVIDIA GPUs in page-locked memory of the host, which a card copies to and from while it
//! computes.
#![cfg_attr(
    feature = "cuda",
    expect(unsafe_code, reason = "memory is allocated before it is written, and seen as the bytes in it")
)]

#[cfg(feature = "cuda")]
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[cfg(feature = "cuda")]
use candle_core::{
    CudaDevice, CudaStorage, DType, Device, Result, Shape, Storage, Tensor, bail,
    cuda_backend::{
        CudaStorageSlice, WrapErr,
        cudarc::driver::{CudaContext, CudaSlice, CudaStream, CudaView, DeviceRepr, PinnedHostSlice},
    },
    op::BackpropOp,
};

/// Page-locked memory that is free for the next tensors of its size, because locking pages takes longer than
/// a copy, and the streams of copies. Clones share it. Without the feature `cuda` there is none.
#[derive(Clone, Debug, Default)]
pub struct HostBuffers {
    #[cfg(feature = "cuda")]
    pool: Arc<Mutex<Pool>>,
}

#[cfg(feature = "cuda")]
#[derive(Debug, Default)]
struct Pool {
    free: Vec<PinnedHostSlice<u8>>,
    /// To the host, and from it.
    streams: Option<[Arc<CudaStream>; 2]>,
}

#[cfg(feature = "cuda")]
impl Pool {
    /// A buffer of so many bytes. What is free and of another size is given back to the system.
    fn take(&mut self, len: usize, context: &Arc<CudaContext>) -> Result<PinnedHostSlice<u8>> {
        let fits = |buffer: &PinnedHostSlice<u8>| buffer.len() == len && buffer.context() == context;
        if let Some(place) = self.free.iter().position(fits) {
            return Ok(self.free.swap_remove(place));
        }
        self.free.clear();
        // SAFETY: a copy writes all of it before anything reads it. Not write-combined: snapshots read it.
        unsafe { context.alloc_pinned_with_flags(len, 0) }.w()
    }

    fn streams(&mut self, context: &Arc<CudaContext>) -> Result<[Arc<CudaStream>; 2]> {
        match &self.streams {
            Some(streams) if streams[0].context() == context => Ok(streams.clone()),
            _ => {
                let made = [context.new_stream().w()?, context.new_stream().w()?];
                Ok(self.streams.insert(made).clone())
            }
        }
    }
}

#[cfg(feature = "cuda")]
impl HostBuffers {
    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A tensor in page-locked memory, or on its way there.
#[cfg(feature = "cuda")]
#[derive(Debug)]
pub(super) struct Pinned {
    /// `None` only while it is dropped.
    bytes: Option<PinnedHostSlice<u8>>,
    buffers: HostBuffers,
    dtype: DType,
    shape: Shape,
}

#[cfg(feature = "cuda")]
impl Drop for Pinned {
    fn drop(&mut self) {
        self.buffers.pool().free.extend(self.bytes.take());
    }
}

#[cfg(feature = "cuda")]
impl Pinned {
    /// Whether tensors of the device can be kept so: they hold something, and all threads share its stream,
    /// which a device from `Device::new_cuda` (`CU_STREAM_PER_THREAD`) does not have.
    pub(super) fn can_keep(t: &Tensor, device: &CudaDevice) -> bool {
        t.elem_count() > 0 && device.cuda_stream().cu_stream().addr() != 2
    }

    /// Begins the copy and waits for nothing.
    pub(super) fn new(t: &Tensor, device: &CudaDevice, buffers: &HostBuffers) -> Result<Self> {
        let len = t.elem_count() * t.dtype().size_in_bytes();
        let stream = device.cuda_stream();
        let bytes = Some(buffers.pool().take(len, stream.context())?);
        let mut pinned = Self { bytes, buffers: buffers.clone(), dtype: t.dtype(), shape: t.shape().clone() };
        let t = t.contiguous()?;
        let (storage, layout) = t.storage_and_layout();
        let (Storage::Cuda(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets()) else {
            bail!("a tensor that is not of an NVIDIA GPU")
        };
        match &storage.slice {
            CudaStorageSlice::F32(values) => pinned.fill(&values.slice(start..end), &stream),
            CudaStorageSlice::F16(values) => pinned.fill(&values.slice(start..end), &stream),
            CudaStorageSlice::BF16(values) => pinned.fill(&values.slice(start..end), &stream),
            _ => bail!("residuals of type {:?} cannot be kept on the host", pinned.dtype),
        }?;
        Ok(pinned)
    }

    fn fill<T: DeviceRepr>(&mut self, values: &CudaView<'_, T>, computes: &Arc<CudaStream>) -> Result<()> {
        let [copies, _] = self.buffers.pool().streams(computes.context())?;
        let Some(bytes) = &mut self.bytes else { bail!("a buffer that was given back") };
        // The slow copy reads one of its own: the tensor may be freed or used by others at once.
        // SAFETY: the next line writes it.
        let mut own = unsafe { computes.alloc::<T>(values.len()) }.w()?;
        computes.memcpy_dtod(values, &mut own).w()?;
        copies.join(computes).w()?;
        // SAFETY: it is the memory of as many values, which nobody else frees.
        let own = unsafe { copies.upgrade_device_ptr::<T>(own.leak(), values.len()) };
        // SAFETY: numbers are bytes, and there are as many of them.
        let Some(view) = (unsafe { own.transmute::<u8>(bytes.len()) }) else {
            bail!("{} bytes for {} values", bytes.len(), values.len())
        };
        copies.memcpy_dtoh(&view, bytes).w()
    }

    /// The tensor again. On an NVIDIA GPU what is computed next waits for the copy, and the host does not; to
    /// the host it waits until the tensor has arrived there.
    pub(super) fn on(&self, device: &Device) -> Result<Tensor> {
        let Some(bytes) = &self.bytes else { bail!("a buffer that was given back") };
        let Device::Cuda(device) = device else {
            return Tensor::from_raw_buffer(bytes.as_slice().w()?, self.dtype, self.shape.dims(), device);
        };
        let stream = device.cuda_stream();
        let slice = match self.dtype {
            DType::F32 => CudaStorageSlice::F32(self.upload(bytes, &stream)?),
            DType::F16 => CudaStorageSlice::F16(self.upload(bytes, &stream)?),
            _ => CudaStorageSlice::BF16(self.upload(bytes, &stream)?),
        };
        let storage = Storage::Cuda(CudaStorage { slice, device: device.clone() });
        Ok(Tensor::from_storage(storage, self.shape.clone(), BackpropOp::none(), false))
    }

    fn upload<T: DeviceRepr>(
        &self,
        bytes: &PinnedHostSlice<u8>,
        computes: &Arc<CudaStream>,
    ) -> Result<CudaSlice<T>> {
        let [_, copies] = self.buffers.pool().streams(computes.context())?;
        let count = self.shape.elem_count();
        // SAFETY: the copy writes all of it.
        let memory = unsafe { copies.alloc::<T>(count) }.w()?;
        // Waits of candle are those of the stream that a slice belongs to, and so is its end.
        // SAFETY: it is the memory of as many values, which nobody else frees.
        let mut values = unsafe { computes.upgrade_device_ptr::<T>(memory.leak(), count) };
        // SAFETY: numbers are bytes, and there are as many of them.
        let Some(mut view) = (unsafe { values.transmute_mut::<u8>(bytes.len()) }) else {
            bail!("{} bytes for {count} values", bytes.len())
        };
        copies.memcpy_htod(bytes, &mut view).w()?;
        computes.join(&copies).w()?;
        Ok(values)
    }

    /// Bytes of the tensor.
    pub(super) fn len(&self) -> usize {
        self.shape.elem_count() * self.dtype.size_in_bytes()
    }

    /// Those of a tensor without a token axis.
    pub(super) fn whole_bytes(&self) -> usize {
        if self.shape.rank() == 3 { 0 } else { self.len() }
    }

    #[cfg(test)]
    pub(super) fn dtype(&self) -> DType {
        self.dtype
    }
}
