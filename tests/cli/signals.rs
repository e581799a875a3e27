//! How a command ends when it is stopped: within a step, with the signal's exit code, and without leftovers.
#![cfg(unix)]

use std::{
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::program::Shell;

/// Stops a command after its steps have begun, which is a while after `begun` is there, a file or folder that
/// it writes. Returns the exit code and the steps of its run that were done, as the error says.
fn stopped(sh: &Shell, line: &str, begun: Option<&str>, signal: &str) -> (Option<i32>, usize) {
    let mut child = sh.command(line).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while begun.is_some_and(|sign| !sh.path(sign).exists()) {
        assert!(started.elapsed() < Duration::from_mins(1), "{line}: {begun:?} is not there");
        thread::sleep(Duration::from_millis(5));
    }
    thread::sleep(Duration::from_secs(2));
    assert!(child.try_wait().unwrap().is_none(), "{line} ended before it was stopped");
    let asked = Instant::now();
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    let out = child.wait_with_output().unwrap();
    assert!(asked.elapsed() < Duration::from_secs(10), "{line} {signal}");
    let told = String::from_utf8(out.stderr).unwrap();
    let done =
        told.strip_prefix("error: interrupted at step ").and_then(|rest| rest.strip_suffix(" of 900\n"));
    (out.status.code(), done.and_then(|done| done.parse().ok()).unwrap_or_else(|| panic!("{line}: {told}")))
}

#[test]
fn a_signal_stops_within_a_step_and_is_told_by_the_exit_code() {
    let state = "run --steps 900 --checkpoint state -q";
    for (line, begun, signal, code) in [
        ("run --steps 900 --out long.mp4 --trace long.jsonl -q", None, "-INT", 130),
        ("compare --steps 900 --out new/out -q", Some("new"), "-INT", 130),
        // Signal handlers are installed before the first state is stored.
        (state, Some("state/state.safetensors"), "-TERM", 143),
        (state, Some("state/state.safetensors"), "-INT", 130),
        (state, Some("state/state.safetensors"), "-HUP", 129),
    ] {
        let sh = Shell::new();
        let (ended, done) = stopped(&sh, line, begun, signal);
        assert_eq!(ended, Some(code), "{line} {signal}");
        assert!((1..900).contains(&done), "{line} {signal}: {done}");
        assert!(line == state || sh.count() == 0, "{line} left {:?}", sh.files().keys());
    }
}

#[test]
fn a_comparison_that_is_stopped_leaves_the_earlier_one_as_it_was() {
    let sh = Shell::new();
    sh.said("compare fbcache --steps 4 --out out -q");
    let before = sh.files();
    for signal in ["-INT", "-TERM"] {
        let line = "compare fbcache teacache --steps 900 --out out --overwrite -q";
        let (_, done) = stopped(&sh, line, None, signal);
        assert!((1..900).contains(&done), "{done}");
        assert!(before == sh.files(), "{signal}: {:?}", sh.files().keys());
    }
    // The same command with fewer steps replaces it.
    sh.said("compare fbcache teacache --steps 5 --out out --overwrite -q");
    let (after, page) = (sh.files(), Path::new("out/report.html"));
    assert!(after.len() > before.len() && after[page] != before[page], "{:?}", after.keys());
}
