//! Signals that end a run: the first one asks it to stop before its next pass, the second one ends the process.

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

/// Ctrl-C, what `kill` sends, and a terminal that is closed.
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
    /// Listens from now on; once in a process.
    pub(crate) fn listen() -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in SIGNALS {
            let code = 128 + signal;
            let listening = || -> std::io::Result<()> {
                // In this order: only the second signal finds the flag set.
                flag::register_conditional_shutdown(*signal, code, Arc::clone(&stop))?;
                flag::register(*signal, Arc::clone(&stop))?;
                flag::register_usize(*signal, Arc::clone(caught()), code as usize)?;
                Ok(())
            };
            listening().context("cannot listen for signals")?;
        }
        Ok(Self(stop))
    }

    /// True once one came.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// The exit code of a run that was stopped: 128 and the number of the signal, as a shell has it; 130 for Ctrl-C, 143 for SIGTERM.
pub(crate) fn exit_code() -> u8 {
    match u8::try_from(caught().load(Ordering::SeqCst)) {
        Ok(code) if code > 128 => code,
        _ => 128 + SIGINT as u8,
    }
}

/// A process has its signals once, and so this.
fn caught() -> &'static Arc<AtomicUsize> {
    static CAUGHT: OnceLock<Arc<AtomicUsize>> = OnceLock::new();
    CAUGHT.get_or_init(Arc::default)
}
