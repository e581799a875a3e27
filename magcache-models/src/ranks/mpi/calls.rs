//! A dozen functions of an MPI library: the only file here that calls foreign code.
//!
//! Handles are pointers in Open MPI and integers in MPICH; everything else is the same in both.
#![expect(unsafe_code, reason = "functions of a library that is loaded at run time")]

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    ptr,
    sync::Arc,
};

use libloading::os::unix::{Library as Shared, RTLD_GLOBAL, RTLD_NOW};
use magcache_core::group::GroupError;

use super::{Result, Tag};
use crate::ranks::{Launcher, Meets};

/// Names of the library, as distributions install it, by whose it is.
const OPEN: [&str; 2] = ["libmpi.so.40", "libmpi.so"];
const MPICH: [&str; 3] = ["libmpich.so.12", "libmpi.so.12", "libmpi.so"];

/// `MPI_THREAD_SERIALIZED`: any thread, one at a time.
const SERIALIZED: c_int = 2;

/// Longest name of itself that a library gives, `MPI_MAX_LIBRARY_VERSION_STRING` of both.
const NAME: usize = 8192;

/// A status is written and never read: larger than both have it.
type Status = [u64; 8];

/// A handle of either kind, in as many bits as the larger has.
#[derive(Clone, Copy, Debug)]
struct Handle(usize);

/// The functions with handles of type `H`.
struct Calls<H> {
    world: H,
    byte: H,
    any: c_int,
    rank: unsafe extern "C" fn(H, *mut c_int) -> c_int,
    size: unsafe extern "C" fn(H, *mut c_int) -> c_int,
    isend: unsafe extern "C" fn(*const c_void, c_int, H, c_int, c_int, H, *mut H) -> c_int,
    irecv: unsafe extern "C" fn(*mut c_void, c_int, H, c_int, c_int, H, *mut H) -> c_int,
    test: unsafe extern "C" fn(*mut H, *mut c_int, *mut Status) -> c_int,
    iprobe: unsafe extern "C" fn(c_int, c_int, H, *mut c_int, *mut Status) -> c_int,
    abort: unsafe extern "C" fn(H, c_int) -> c_int,
    finalize: unsafe extern "C" fn() -> c_int,
}

enum Api {
    Open(Calls<*mut c_void>),
    Mpich(Calls<c_int>),
}

// SAFETY: the handles in it are constants of the library, and who calls holds a lock (`SERIALIZED`), but for
// the end of the program.
unsafe impl Send for Api {}
// SAFETY: as above.
unsafe impl Sync for Api {}

/// A library that is loaded and initialised; it stays until the process ends.
#[derive(Clone)]
pub(super) struct Library {
    api: Arc<Api>,
    version: Arc<str>,
}

impl std::fmt::Debug for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.version)
    }
}

/// Runs an expression with the functions of either kind.
macro_rules! call {
    ($library:expr, $name:literal, |$c:ident| $e:expr) => {{
        // SAFETY: the arguments are those of the function's prototype, and buffers outlive the call; those of
        // requests are kept in `Pending`.
        let code = unsafe {
            match &*$library.api {
                Api::Open($c) => $e,
                Api::Mpich($c) => $e,
            }
        };
        if code == 0 { Ok(()) } else { Err(GroupError::Engine(format!("{} failed with {code}", $name))) }
    }};
}

impl Library {
    /// Loads the first that is there, and initialises it.
    pub(super) fn load(launcher: Option<&Launcher>) -> Result<Self> {
        let is_open = launcher.is_none_or(|launcher| launcher.meets != Meets::Mpich);
        let (first, second): (&[&str], &[&str]) = if is_open { (&OPEN, &MPICH) } else { (&MPICH, &OPEN) };
        let names = first.iter().chain(second).copied();
        let mut tried = Vec::new();
        for name in names {
            // SAFETY: the initialisers of an MPI library do nothing but prepare it. Its plug-ins look for its
            // symbols, so these are global.
            match unsafe { Shared::open(Some(name), RTLD_NOW | RTLD_GLOBAL) } {
                Ok(shared) => return Self::of(shared),
                Err(error) if tried.is_empty() => tried.push(error.to_string()),
                Err(_) => tried.push(name.to_owned()),
            }
        }
        Err(GroupError::Engine(format!("no MPI library is installed (tried {})", tried.join(", "))))
    }

    fn of(shared: Shared) -> Result<Self> {
        type Init = unsafe extern "C" fn(*mut c_int, *mut c_void, c_int, *mut c_int) -> c_int;
        type Version = unsafe extern "C" fn(*mut c_char, *mut c_int) -> c_int;
        // What it gives is used until the process ends.
        let shared: &'static Shared = Box::leak(Box::new(shared));
        let (mut text, mut length, mut provided) = ([0 as c_char; NAME], 0, 0);
        // SAFETY: the types are those of the prototypes in `mpi.h`; the text is as long as it may become.
        let version = unsafe {
            let (version, init) =
                (get::<Version>(shared, "MPI_Get_library_version")?, get::<Init>(shared, "MPI_Init_thread")?);
            version(text.as_mut_ptr(), &raw mut length);
            let code = init(ptr::null_mut(), ptr::null_mut(), SERIALIZED, &raw mut provided);
            if code != 0 || provided < SERIALIZED {
                let message = format!("MPI_Init_thread gave {code}, threads {provided} of {SERIALIZED}");
                return Err(GroupError::Engine(message));
            }
            CStr::from_ptr(text.as_ptr())
                .to_string_lossy()
                .lines()
                .next()
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        // SAFETY: Open MPI has its handles as addresses of objects with these names; MPICH as integers
        // that its ABI fixes.
        let api = unsafe {
            match shared.get::<*mut c_void>(b"ompi_mpi_comm_world\0") {
                Ok(world) => {
                    let byte = shared.get::<*mut c_void>(b"ompi_mpi_byte\0").map_err(missing)?;
                    Api::Open(Calls::get(shared, world.into_raw(), byte.into_raw(), -1)?)
                }
                Err(_) => Api::Mpich(Calls::get(shared, 0x4400_0000, 0x4c00_010d, -2)?),
            }
        };
        Ok(Self { api: Arc::new(api), version: version.into() })
    }

    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// This rank, and the number of ranks.
    pub(super) fn place(&self) -> Result<(usize, usize)> {
        let (mut rank, mut size) = (0, 0);
        call!(self, "MPI_Comm_rank", |c| (c.rank)(c.world, &raw mut rank))?;
        call!(self, "MPI_Comm_size", |c| (c.size)(c.world, &raw mut size))?;
        Ok((rank as usize, size as usize))
    }

    /// Whether a message has arrived, from that rank or from any, and from which.
    pub(super) fn arrived(&self, from: Option<usize>, tag: Tag) -> Result<Option<usize>> {
        let (mut flag, mut status) = (0, Status::default());
        let place = from.map(|from| from as c_int);
        call!(self, "MPI_Iprobe", |c| {
            (c.iprobe)(place.unwrap_or(c.any), tag.number(), c.world, &raw mut flag, &raw mut status)
        })?;
        if flag == 0 {
            return Ok(None);
        }
        // Where the source stands in a status: first in Open MPI, third in MPICH.
        let source = match &*self.api {
            Api::Open(_) => status[0] as u32,
            Api::Mpich(_) => status[1] as u32,
        };
        Ok(Some(from.unwrap_or(source as usize)))
    }

    pub(super) fn send(&self, to: usize, tag: Tag, bytes: Vec<u8>) -> Result<Pending> {
        let count = length(bytes.len())?;
        let mut pending = Pending { bytes: bytes.into_boxed_slice(), request: Handle(0), other: to };
        let (data, to) = (pending.bytes.as_ptr().cast(), to as c_int);
        // SAFETY: the bytes are kept in `Pending` until the request is done.
        unsafe {
            match &*self.api {
                Api::Open(c) => {
                    let mut request = ptr::null_mut();
                    (c.isend)(data, count, c.byte, to, tag.number(), c.world, &raw mut request);
                    pending.request = Handle(request.expose_provenance());
                }
                Api::Mpich(c) => {
                    let mut request = 0;
                    (c.isend)(data, count, c.byte, to, tag.number(), c.world, &raw mut request);
                    pending.request = Handle(request as u32 as usize);
                }
            }
        }
        Ok(pending)
    }

    pub(super) fn receive(&self, from: usize, tag: Tag, length: usize) -> Result<Pending> {
        let count = self::length(length)?;
        let mut pending =
            Pending { bytes: vec![0; length].into_boxed_slice(), request: Handle(0), other: from };
        let (data, from) = (pending.bytes.as_mut_ptr().cast(), from as c_int);
        // SAFETY: as in `send`; nobody else looks at the bytes until then.
        unsafe {
            match &*self.api {
                Api::Open(c) => {
                    let mut request = ptr::null_mut();
                    (c.irecv)(data, count, c.byte, from, tag.number(), c.world, &raw mut request);
                    pending.request = Handle(request.expose_provenance());
                }
                Api::Mpich(c) => {
                    let mut request = 0;
                    (c.irecv)(data, count, c.byte, from, tag.number(), c.world, &raw mut request);
                    pending.request = Handle(request as u32 as usize);
                }
            }
        }
        Ok(pending)
    }

    pub(super) fn abort(&self, code: i32) {
        _ = call!(self, "MPI_Abort", |c| (c.abort)(c.world, code));
    }

    pub(super) fn finalize(&self) -> Result<()> {
        call!(self, "MPI_Finalize", |c| (c.finalize)())
    }
}

/// A message on its way. The library reads or writes its bytes until it is done.
#[derive(Debug)]
pub(super) struct Pending {
    bytes: Box<[u8]>,
    request: Handle,
    /// The rank at the other end.
    other: usize,
}

impl Pending {
    pub(super) fn is_done(&mut self, library: &Library) -> Result<bool> {
        let (mut flag, mut status) = (0, Status::default());
        let code;
        // SAFETY: the request is one that `send` or `receive` made, and was not done yet: it is forgotten
        // then.
        unsafe {
            match &*library.api {
                Api::Open(c) => {
                    let mut request = ptr::with_exposed_provenance_mut(self.request.0);
                    code = (c.test)(&raw mut request, &raw mut flag, &raw mut status);
                    self.request = Handle(request.expose_provenance());
                }
                Api::Mpich(c) => {
                    let mut request = self.request.0 as u32 as c_int;
                    code = (c.test)(&raw mut request, &raw mut flag, &raw mut status);
                    self.request = Handle(request as u32 as usize);
                }
            }
        }
        if code == 0 {
            Ok(flag != 0)
        } else {
            Err(GroupError::Engine(format!("MPI_Test failed with {code}")))
        }
    }

    /// The rank that a message is sent to.
    pub(super) fn receiver(&self) -> usize {
        self.other
    }

    /// The bytes of a message that is done.
    pub(super) fn take(self) -> Vec<u8> {
        self.bytes.into_vec()
    }

    /// Leaves the bytes to the library for good.
    pub(super) fn abandon(self) {
        Box::leak(self.bytes);
    }
}

/// A length as MPI counts.
fn length(bytes: usize) -> Result<c_int> {
    c_int::try_from(bytes)
        .map_err(|_| GroupError::Engine(format!("a message of {bytes} bytes is too long for MPI")))
}

fn missing(error: libloading::Error) -> GroupError {
    GroupError::Engine(error.to_string())
}

/// A function of the library.
///
/// # Safety
/// `F` is its type.
unsafe fn get<F: Copy>(shared: &Shared, name: &str) -> Result<F> {
    // SAFETY: the caller's.
    unsafe { shared.get::<F>(name.as_bytes()).map(|symbol| *symbol).map_err(missing) }
}

impl<H> Calls<H> {
    /// # Safety
    /// The library has handles of this type.
    unsafe fn get(shared: &Shared, world: H, byte: H, any: c_int) -> Result<Self> {
        // SAFETY: the types of the fields are those of the prototypes in `mpi.h`.
        unsafe {
            Ok(Self {
                world,
                byte,
                any,
                rank: get(shared, "MPI_Comm_rank")?,
                size: get(shared, "MPI_Comm_size")?,
                isend: get(shared, "MPI_Isend")?,
                irecv: get(shared, "MPI_Irecv")?,
                test: get(shared, "MPI_Test")?,
                iprobe: get(shared, "MPI_Iprobe")?,
                abort: get(shared, "MPI_Abort")?,
                finalize: get(shared, "MPI_Finalize")?,
            })
        }
    }
}
