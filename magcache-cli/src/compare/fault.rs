//! All errors of several configurations, reported together.

use anyhow::{Error, Result};

use crate::console::{Failure, bad_input};

/// An error in one configuration.
#[derive(Debug)]
pub(crate) struct Fault {
    name: String,
    error: Error,
}

impl Fault {
    /// An error in the configuration given as `name`.
    pub(crate) fn new(name: &str, error: Error) -> Self {
        Self { name: name.to_owned(), error }
    }

    /// Errors: all of `faults`, each with its name, causes and hint.
    pub(crate) fn none_of(faults: Vec<Self>) -> Result<()> {
        let mut lines = String::new();
        let count = faults.len();
        for fault in &faults {
            let Failure { message, causes, hint } = Failure::of(&fault.error);
            let all = [&[message][..], &causes].concat();
            lines += &format!("\n  {}: {}", fault.name, all.join(": ").replace('\n', "\n  "));
            if let Some(hint) = hint {
                lines += &format!("\n    {hint}");
            }
        }
        match (faults.into_iter().next(), count) {
            (None, _) => Ok(()),
            // A single error keeps its kind, causes and hint.
            (Some(fault), 1) => Err(fault.error),
            _ => Err(bad_input(format!("{count} faults in the configurations{lines}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::bad_input_with;

    #[test]
    fn one_fault_is_itself_and_several_are_a_list() {
        assert!(Fault::none_of(Vec::new()).is_ok());
        let fault = |name| Fault::new(name, bad_input_with(format!("{name} is bad"), "try good"));
        let one = Fault::none_of(vec![fault("a")]).unwrap_err();
        let told = Failure::of(&one);
        assert_eq!((told.message.as_str(), told.hint.as_deref()), ("a is bad", Some("try good")));
        let two = Fault::none_of(vec![fault("a"), fault("b")]).unwrap_err().to_string();
        let lines = "\n  a: a is bad\n    try good\n  b: b is bad\n    try good";
        assert_eq!(two, format!("2 faults in the configurations{lines}"));
    }
}
