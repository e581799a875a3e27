//! The only file that prints.
#![expect(clippy::print_stderr, reason = "this is the file that may print")]

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::Error;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::failure::{Failed, Failure, Told, exit_code, flags};

/// Prints a command's answer, notes and progress.
#[derive(Debug)]
pub(crate) struct Console {
    json: bool,
    quiet: bool,
    colour: bool,
    /// Notes on the loaded files, for the JSON document.
    loaded: Mutex<Vec<String>>,
}

impl Console {
    /// With `json`, stdout holds just one document; `quiet` drops everything but that and errors.
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        Self { json, quiet, colour: !plain && std::io::stdout().is_terminal(), loaded: Mutex::default() }
    }

    /// Prints nothing at all.
    pub(crate) fn silent() -> Self {
        Self { json: false, quiet: true, colour: false, loaded: Mutex::default() }
    }

    /// Prints the answer: `document` with `--json`, else `text` unless `--quiet`.
    pub(crate) fn answer(&self, text: &str, document: &Value) {
        if self.quiet && !self.json {
            return;
        }
        let notes = std::mem::take(&mut *self.loaded.lock().unwrap_or_else(PoisonError::into_inner));
        let mut document = std::borrow::Cow::Borrowed(document);
        if !notes.is_empty()
            && let Value::Object(fields) = document.to_mut()
        {
            fields.insert("notes".to_owned(), notes.into());
        }
        let mut out = std::io::stdout().lock();
        // A closed pipe is the reader's choice, not an error.
        let _ = if self.json { writeln!(out, "{document}") } else { writeln!(out, "{}", text.trim_end()) };
    }

    /// Prints something for the user that scripts do not need.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            eprintln!("note: {text}");
        }
    }

    /// Prints a note on the prompt or the model's files, which the JSON document lists under `notes`.
    pub(crate) fn loaded(&self, text: &str) {
        self.note(text);
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
    }

    pub(crate) fn warn(&self, text: &str, hint: Option<&str>) {
        if !self.quiet {
            eprintln!("warning: {text}");
            if let Some(hint) = hint {
                eprintln!("hint: {}", flags(hint));
            }
        }
    }

    /// `text` in a terminal colour, if stdout is a terminal.
    pub(crate) fn paint(&self, text: &str, code: u8) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(crate) fn bar(&self, steps: usize, what: &str) -> ProgressBar {
        let style = ProgressStyle::with_template("{msg:24} {bar:32} {pos}/{len} {elapsed} (eta {eta})");
        self.shown(ProgressBar::new(steps as u64), style.ok(), what)
    }

    /// A bar for bytes that come from elsewhere, with their rate.
    pub(crate) fn transfer(&self, what: &str) -> ProgressBar {
        let style = ProgressStyle::with_template(
            "{msg:24} {bar:32} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} (eta {eta})",
        );
        self.shown(ProgressBar::new(0), style.ok(), what)
    }

    /// A spinner for work of unknown length.
    pub(crate) fn spinner(&self, what: &str) -> ProgressBar {
        let bar = self.shown(
            ProgressBar::new_spinner(),
            ProgressStyle::with_template("{spinner} {msg} {elapsed}").ok(),
            what,
        );
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    }

    fn shown(&self, bar: ProgressBar, style: Option<ProgressStyle>, what: &str) -> ProgressBar {
        if self.quiet {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        if let Some(style) = style {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        bar
    }

    /// Reports a failed command and returns its exit code.
    pub(crate) fn failure(&self, error: &Error) -> ExitCode {
        if error.is::<Told>() {
            return ExitCode::from(exit_code(error));
        }
        let Failure { message, causes, hint } = Failure::of(error);
        if self.json {
            // The report of a failed check is already the one document.
            if error.is::<Failed>() {
                return ExitCode::from(exit_code(error));
            }
            let document = json!({ "error": message, "causes": causes, "hint": hint });
            let _ = writeln!(std::io::stdout().lock(), "{document}");
        } else {
            eprintln!("error: {message}");
            for cause in causes {
                eprintln!("  caused by: {cause}");
            }
            if let Some(hint) = hint {
                eprintln!("hint: {hint}");
            }
        }
        ExitCode::from(exit_code(error))
    }
}
