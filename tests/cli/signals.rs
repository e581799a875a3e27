//! How a command ends when it is stopped: within a step, with the signal's exit code, and without leftovers.
#![cfg(unix)]

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::program::Shell;

#[test]
fn a_signal_stops_within_a_step_and_is_told_by_the_exit_code() {
    let state = "run --steps 900 --checkpoint state -q";
    // The file or folder that shows that the steps have begun, and for how long at most to wait for it.
    for (line, sign, patience, signal, code) in [
        ("run --steps 900 --out long.mp4 --trace long.jsonl -q", "long.mp4", 2, "-INT", 130),
        ("compare --steps 900 --out new/out -q", "new", 60, "-INT", 130),
        // Signal handlers are installed before the first state is stored.
        (state, "state/state.safetensors", 60, "-TERM", 143),
        (state, "state/state.safetensors", 60, "-INT", 130),
        (state, "state/state.safetensors", 60, "-HUP", 129),
    ] {
        let sh = Shell::new();
        let mut child = sh.command(line).spawn().unwrap();
        let started = Instant::now();
        while !sh.path(sign).exists() && started.elapsed() < Duration::from_secs(patience) {
            thread::sleep(Duration::from_millis(5));
        }
        thread::sleep(Duration::from_millis(500));
        assert!(child.try_wait().unwrap().is_none(), "{line} ended before it was stopped");
        let asked = Instant::now();
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(code), "{line} {signal}");
        assert!(asked.elapsed() < Duration::from_secs(20), "{line} {signal}");
        assert!(line == state || sh.count() == 0, "{line} left something");
    }
}
