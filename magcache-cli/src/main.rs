//! The `magcache` program.

use std::process::ExitCode;

/// Big buffers stay with the process: returning each tensor to the system costs a page fault per page of the next.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    magcache_cli::main()
}
