//! `--verbose` and `RUST_LOG`: the log on stderr.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

/// Logs to stderr what `RUST_LOG` selects, or else what `--verbose` does: given once, what is done and how
/// long it took; given twice, every decision of the caches. Without either, nothing is logged. Returns what
/// is wrong with `RUST_LOG`, if anything.
pub(crate) fn listen(verbose: u8) -> Option<String> {
    let level = match verbose {
        0 => "off",
        1 => "magcache_cli=debug",
        _ => "magcache_cli=trace",
    };
    let asked = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|asked| !asked.is_empty());
    let (filter, wrong) = match asked.map(|asked| (EnvFilter::try_new(&asked), asked)) {
        None => (EnvFilter::new(level), None),
        Some((Ok(filter), _)) => (filter, None),
        Some((Err(error), asked)) => {
            (EnvFilter::new(level), Some(format!("RUST_LOG is {asked:?}, which is no filter: {error}")))
        }
    };
    let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    let colour = !plain && stderr().is_terminal();
    // A second subscriber in one process would be a bug, but only its lines would be lost.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(colour)
        .with_target(false)
        .without_time()
        .try_init();
    wrong
}
