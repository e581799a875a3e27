//! The `magcache` program.

use std::process::ExitCode;

/// mimalloc keeps large buffers: returning each tensor to the system would cost a page fault per page of the
/// next one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    magcache_cli::main()
}
