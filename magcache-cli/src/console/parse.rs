//! Parses the command line and reports parse errors in the style of any other error, also with `--json`.

use std::{env, ffi::OsString, process::ExitCode};

use clap::{CommandFactory, Error, Parser, error::ErrorKind};

use super::{answers::Console, failure::bad_input_with};
use crate::args::Args;

/// Parses the command line.
///
/// Errors: the exit code, after the help that was asked for or the error is printed.
pub(crate) fn parse() -> Result<Args, ExitCode> {
    let words: Vec<OsString> = env::args_os().collect();
    Args::try_parse_from(&words).map_err(|error| {
        if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
        // The parsed `--json` flag is not available here.
        let json = words.iter().take_while(|word| *word != "--").any(|word| word == "--json");
        let (message, hint) = explained(&error, &words);
        Console::new(json, false).failure(&bad_input_with(message, hint))
    })
}

/// The error and a hint that can be typed.
fn explained(error: &Error, words: &[OsString]) -> (String, String) {
    let text = error.to_string();
    let joined = |paragraph: &str| paragraph.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    let mut paragraphs = text.split("\n\n").map(str::trim);
    let message = joined(paragraphs.next().unwrap_or_default());
    let tips = paragraphs.filter_map(|paragraph| paragraph.strip_prefix("tip: ")).map(joined);
    let hint: Vec<String> = tips.chain([help(words)]).collect();
    (message.strip_prefix("error: ").unwrap_or(&message).to_owned(), hint.join("; "))
}

/// The command that shows the help of what was typed.
fn help(words: &[OsString]) -> String {
    let mut command = Args::command();
    let mut help = command.get_name().to_owned();
    let is_flag = |word: &&str| word.starts_with('-');
    for word in words.iter().skip(1).map_while(|word| word.to_str()).skip_while(is_flag) {
        let Some(found) = command.find_subcommand(word).cloned() else { break };
        help += &format!(" {word}");
        command = found;
    }
    help + " --help"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &[&str]) -> (String, String) {
        let words: Vec<OsString> = [&["magcache"], words].concat().into_iter().map(OsString::from).collect();
        explained(&Args::try_parse_from(&words).unwrap_err(), &words)
    }

    #[test]
    fn the_fault_and_what_can_be_typed_are_told_apart() {
        let (message, hint) = of(&["run", "--promt", "x"]);
        assert_eq!(message, "unexpected argument '--promt' found");
        assert_eq!(hint, "a similar argument exists: '--prompt'; magcache run --help");
        let (message, hint) = of(&["run", "--on-drift", "panic"]);
        assert_eq!(
            message,
            "invalid value 'panic' for '--on-drift <ON_DRIFT>' [possible values: report, tighten, disable]"
        );
        assert_eq!(hint, "magcache run --help");
        let (message, _) = of(&["verify"]);
        assert_eq!(message, "the following required arguments were not provided: <CASE>...");
        let (message, hint) = of(&["rum"]);
        assert_eq!(message, "unrecognized subcommand 'rum'");
        assert!(hint.contains("'run'"), "{hint}");
        let (message, hint) = of(&["--json"]);
        assert!(message.contains("requires a subcommand but one was not provided"), "{message}");
        assert_eq!(hint, "magcache --help");
    }
}
