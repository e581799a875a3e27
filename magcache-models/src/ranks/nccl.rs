//! NCCL between GPUs: the only file here that calls it.
//!
//! A communicator that does not block works on threads of its own, so its stream has to be the same on every
//! thread. Values are sent as bytes: nothing is added up.
#![expect(unsafe_code, reason = "functions of a library in C")]

use std::{
    ffi::{CStr, c_char},
    mem, ptr,
    sync::Arc,
};

use candle_core::{
    CudaDevice, CudaStorage, Device, Result, Storage, Tensor,
    backend::{BackendDevice, BackendStorage},
    cuda_backend::{
        CudaStorageSlice, WrapErr,
        cudarc::{
            driver::{self, CudaEvent, CudaStream, DevicePtr, DriverError, sys::CUresult},
            nccl::{
                result::{self, NcclError, NcclStatus},
                sys,
            },
        },
    },
    op::BackpropOp,
};
use magcache_core::{Group, group::GroupError, hint};

use super::{
    DataPlane,
    device::{DevicePlane, Fabric},
};

/// The version that is loaded, `2.28.9`.
pub(super) fn version() -> String {
    result::get_nccl_version().map_or_else(|_| "?".to_owned(), |code| super::version_of(code.cast_unsigned()))
}

/// Joins the ranks of a group, each with a device of its own.
///
/// # Errors
/// Those of NCCL; a rank that does not join in time; a device whose stream depends on the thread.
pub(super) fn join(group: &Group, device: &Device) -> Result<Arc<dyn DataPlane>> {
    let device = device.as_cuda_device()?;
    if device.cuda_stream().cu_stream().addr() == PER_THREAD {
        candle_core::bail!(
            "NCCL needs a device with one stream for all threads: Device::new_cuda_with_stream"
        )
    }
    let mut own = Nccl {
        comm: ptr::null_mut(),
        device: device.clone(),
        stream: device.cuda_stream(),
        place: group.place(),
        ranks: (0..group.size()).map(|place| group.rank(place)).collect(),
        asked: "the ranks meet in NCCL".to_owned(),
        moving: None,
        left: false,
    };
    let id = if group.place() == 0 { own.id()? } else { Vec::new() };
    let id = group.from_first(&own.asked, || Ok::<_, GroupError>(id)).map_err(hint::wrap)?;
    own.join(&id)?;
    Ok(Arc::new(DevicePlane::new(group.clone(), own)?))
}

/// `CU_STREAM_PER_THREAD`: another stream on every thread.
const PER_THREAD: usize = 2;

/// One rank of a communicator.
#[derive(Debug)]
struct Nccl {
    /// Null until it has begun to join.
    comm: sys::ncclComm_t,
    device: CudaDevice,
    stream: Arc<CudaStream>,
    place: usize,
    /// The rank at each place, for messages.
    ranks: Vec<usize>,
    /// What it was asked last.
    asked: String,
    /// Kept until it has arrived, or is aborted.
    moving: Option<Moving>,
    /// Whether it has begun to leave.
    left: bool,
}

// SAFETY: a communicator may be used by any thread, one at a time.
unsafe impl Send for Nccl {}

/// An exchange on its way: NCCL reads and writes these until the event has happened, once there is one.
#[derive(Debug)]
struct Moving {
    sent: Vec<Tensor>,
    /// `None` at the own place.
    received: Vec<Option<CudaStorage>>,
    shapes: Vec<Vec<usize>>,
    event: Option<CudaEvent>,
}

impl Moving {
    /// The parts of all ranks.
    fn arrived(self) -> Vec<Tensor> {
        let parts = self.sent.into_iter().zip(self.received).zip(self.shapes);
        let part = |((sent, received), shape)| match received {
            Some(values) => Tensor::from_storage(Storage::Cuda(values), shape, BackpropOp::none(), false),
            None => sent,
        };
        parts.map(part).collect()
    }
}

/// Where the values of a storage are. The host waits for what reads or writes them: nobody else has to.
fn address(storage: &CudaStorage, stream: &CudaStream) -> Result<u64> {
    Ok(match &storage.slice {
        CudaStorageSlice::F32(values) => values.device_ptr(stream).0,
        CudaStorageSlice::F16(values) => values.device_ptr(stream).0,
        CudaStorageSlice::BF16(values) => values.device_ptr(stream).0,
        _ => candle_core::bail!("NCCL sends f32, f16 and bf16 here, not {}", storage.dtype().as_str()),
    })
}

/// A text of NCCL.
///
/// # Safety
/// It is null, or ends with a zero and stays during the call.
unsafe fn text(text: *const c_char) -> String {
    // SAFETY: the caller's.
    let text = if text.is_null() { c"" } else { unsafe { CStr::from_ptr(text) } };
    text.to_string_lossy().into_owned()
}

impl Nccl {
    /// Whether a call worked, or works on.
    fn check<T>(&self, call: &str, code: std::result::Result<T, NcclError>) -> Result<T> {
        code.map_err(|NcclError(code)| {
            // SAFETY: the texts are NCCL's own; every code has one, and without a communicator the last error
            // is that of the process.
            let (short, long) =
                unsafe { (text(sys::ncclGetErrorString(code)), text(sys::ncclGetLastError(self.comm))) };
            let (rank, asked) = (self.ranks[self.place], &self.asked);
            let message = format!("{asked}: {call} failed on rank {rank}: {short} {long}");
            hint::tensor_error(
                message.trim_end(),
                "NCCL_DEBUG=INFO says more; does every rank have a GPU of its own?",
            )
        })
    }

    /// A name for those who join, unique in the network.
    fn id(&self) -> Result<Vec<u8>> {
        let id = self.check("ncclGetUniqueId", result::get_uniqueid())?;
        Ok(id.internal.iter().map(|byte| byte.cast_unsigned()).collect())
    }

    /// Begins to join.
    fn join(&mut self, id: &[u8]) -> Result<()> {
        // NCCL takes the device of the thread.
        self.stream.context().bind_to_thread().w()?;
        let byte = |i: usize| id.get(i).copied().unwrap_or_default().cast_signed();
        let id = sys::ncclUniqueId { internal: std::array::from_fn(byte) };
        // SAFETY: numbers and addresses may be zero.
        let mut config: sys::ncclConfig_t = unsafe { mem::zeroed() };
        // As much as 2.14 has of it, and all later ones read: the rest is as they choose.
        config.size = mem::offset_of!(sys::ncclConfig_t, cgaClusterSize);
        config.magic = 0xcafe_beef;
        config.version = 21_400;
        config.blocking = 0;
        let (size, place) = (self.ranks.len() as i32, self.place as i32);
        // SAFETY: both pointers are to what outlives the call, and NCCL copies what it needs after it.
        let begun =
            unsafe { result::comm_init_rank_config(&raw mut self.comm, size, id, place, &raw mut config) };
        self.check("ncclCommInitRankConfig", begun).map(drop)
    }

    /// Sends to all others and receives from them, which NCCL does at once when the group of calls ends.
    fn start(&self) -> Result<()> {
        let Some(moving) = &self.moving else { return Ok(()) };
        let stream = self.stream.cu_stream().cast();
        let parts = moving.sent.iter().zip(&moving.received).zip(&moving.shapes);
        for (place, ((part, buffer), shape)) in parts.enumerate() {
            let Some(buffer) = buffer else { continue };
            let (storage, layout) = part.storage_and_layout();
            let Storage::Cuda(storage) = &*storage else {
                candle_core::bail!("{}: a part is not on a GPU", self.asked)
            };
            let size = part.dtype().size_in_bytes();
            let from = address(storage, &self.stream)? + (layout.start_offset() * size) as u64;
            let to = address(buffer, &self.stream)?;
            let [sent, received] = [part.dims(), shape].map(|dims| dims.iter().product::<usize>() * size);
            let (peer, rank, byte) = (place as i32, self.ranks[place], sys::ncclDataType_t::ncclUint8);
            // SAFETY: so many bytes are at the address, and stay there until they are sent: `Moving`.
            let send = unsafe { result::send(from as *const _, sent, byte, peer, self.comm, stream) };
            self.check(&format!("ncclSend of {sent} bytes to rank {rank}"), send)?;
            // SAFETY: as above, and nobody else looks at them until they have arrived.
            let receive = unsafe { result::recv(to as *mut _, received, byte, peer, self.comm, stream) };
            self.check(&format!("ncclRecv of {received} bytes from rank {rank}"), receive)?;
        }
        Ok(())
    }
}

impl Fabric for Nccl {
    const NAME: &'static str = "NCCL";

    fn is_ready(&mut self) -> Result<bool> {
        let mut state = sys::ncclResult_t::ncclSuccess;
        // SAFETY: the communicator was made, and the state outlives the call.
        let asked = unsafe { sys::ncclCommGetAsyncError(self.comm, &raw mut state) };
        self.check("ncclCommGetAsyncError", asked.result())?;
        Ok(self.check("NCCL", state.result())? == NcclStatus::Success)
    }

    fn begin(&mut self, about: &str, parts: Vec<Tensor>, shapes: &[Vec<usize>]) -> Result<()> {
        about.clone_into(&mut self.asked);
        let sent = parts.iter().map(Tensor::contiguous).collect::<Result<Vec<_>>>()?;
        let buffer = |(place, (part, shape)): (usize, (&Tensor, &Vec<usize>))| {
            // SAFETY: it becomes a tensor when it was written.
            let buffer = || unsafe { self.device.alloc_uninit(&shape.as_slice().into(), part.dtype()) };
            if place == self.place { Ok(None) } else { buffer().map(Some) }
        };
        let received = sent.iter().zip(shapes).enumerate().map(buffer).collect::<Result<_>>()?;
        self.moving = Some(Moving { sent, received, shapes: shapes.to_vec(), event: None });
        self.check("ncclGroupStart", result::group_start())?;
        let started = self.start();
        // A group of calls that was begun has to end, whatever happened in it.
        let ended = self.check("ncclGroupEnd", result::group_end());
        started.and(ended).map(drop)
    }

    fn poll(&mut self) -> Result<Option<Vec<Tensor>>> {
        // Only when all of it is in the stream an event comes after it.
        if !self.is_ready()? {
            return Ok(None);
        }
        let Some(mut moving) = self.moving.take() else { return Ok(None) };
        let event = match moving.event.take() {
            Some(event) => event,
            None => self.stream.record_event(None).w()?,
        };
        // SAFETY: the event was recorded.
        match unsafe { driver::result::event::query(event.cu_event()) } {
            Ok(()) => Ok(Some(moving.arrived())),
            Err(DriverError(CUresult::CUDA_ERROR_NOT_READY)) => {
                self.moving = Some(Moving { event: Some(event), ..moving });
                Ok(None)
            }
            Err(error) => Err(error).w(),
        }
    }

    fn leave(&mut self) -> Result<()> {
        "the ranks leave NCCL".clone_into(&mut self.asked);
        // SAFETY: the communicator was made and is not used for anything else after this.
        let begun = unsafe { result::comm_finalize(self.comm) };
        self.left = true;
        self.check("ncclCommFinalize", begun).map(drop)
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        if self.comm.is_null() {
            return;
        }
        let done = self.left && matches!(self.is_ready(), Ok(true));
        // SAFETY: nobody has the communicator after this. What it still does on the device is made to end.
        _ = unsafe { if done { result::comm_destroy(self.comm) } else { result::comm_abort(self.comm) } };
    }
}
