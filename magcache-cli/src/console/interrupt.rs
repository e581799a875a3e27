//! Signals that end a run: the first one asks it to stop before its next pass, the second ends the process.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use anyhow::{Context, Result};
#[cfg(unix)]
use signal_hook::consts::SIGHUP;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

/// Ctrl-C, the default signal of `kill`, and a closed terminal.
const SIGNALS: &[i32] = &[
    SIGINT,
    SIGTERM,
    #[cfg(unix)]
    SIGHUP,
];

/// A flag that a signal sets.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Starts to listen; call it once per process.
    pub(crate) fn listen() -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in SIGNALS {
            let code = 128 + signal;
            let listening = || -> std::io::Result<()> {
                // The order matters: only the second signal finds the flag set.
                flag::register_conditional_shutdown(*signal, code, Arc::clone(&stop))?;
                flag::register(*signal, Arc::clone(&stop))?;
                flag::register_usize(*signal, Arc::clone(caught()), code as usize)?;
                Ok(())
            };
            listening().context("cannot listen for signals")?;
        }
        Ok(Self(stop))
    }

    /// True once a signal has arrived.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// The exit code of a stopped run: 128 plus the signal's number, as in a shell; 130 for Ctrl-C, 143 for
/// SIGTERM.
pub(crate) fn exit_code() -> u8 {
    match u8::try_from(caught().load(Ordering::SeqCst)) {
        Ok(code) if code > 128 => code,
        _ => 128 + SIGINT as u8,
    }
}

/// Signal handlers are global to the process, and so is this.
fn caught() -> &'static Arc<AtomicUsize> {
    static CAUGHT: OnceLock<Arc<AtomicUsize>> = OnceLock::new();
    CAUGHT.get_or_init(Arc::default)
}
