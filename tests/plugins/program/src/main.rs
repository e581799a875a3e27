//! The `magcache` program with a strategy and a model of one's own.

use std::process::ExitCode;

fn main() -> ExitCode {
    magcache_plugin_interval::link();
    magcache_plugin_mini::link();
    magcache_cli::main()
}
