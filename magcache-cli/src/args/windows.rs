//! Windows of blocks, as a user writes them.

use std::str::FromStr;

use anyhow::Result;
use magcache_core::{Window, error::count};

use crate::console::bad_input_with;

/// One of `--windows`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WindowArg {
    /// Those that suit the model.
    Auto,
    /// No window.
    None,
    Window(Window),
}

impl FromStr for WindowArg {
    type Err = String;

    fn from_str(word: &str) -> std::result::Result<Self, String> {
        let blocks = |text: &str| text.trim().parse::<usize>().ok();
        match (word, word.split_once('+')) {
            ("auto", _) => Ok(Self::Auto),
            ("none", _) => Ok(Self::None),
            (_, Some((front, back))) => {
                let ends = blocks(front).zip(blocks(back));
                let (front, back) = ends.ok_or_else(|| format!("{word:?} is not two numbers of blocks"))?;
                Ok(Self::Window(Window { front, back }))
            }
            _ => Err("one of FRONT+BACK, such as 2+1, auto and none".to_owned()),
        }
    }
}

/// Runs of at most this many steps are planned with windows by default.
const FEW: usize = 8;

/// The windows to measure in a run of `steps` steps of a model of `blocks` blocks.
///
/// # Errors
/// A window that runs no block or all of them; two of which one does not replace all that the other does,
/// nor something else.
pub(crate) fn windows(args: &[WindowArg], steps: usize, blocks: usize) -> Result<Vec<Window>> {
    let mut all: Vec<Window> = Vec::new();
    let default = if steps <= FEW { WindowArg::Auto } else { WindowArg::None };
    let args = if args.is_empty() { std::slice::from_ref(&default) } else { args };
    for arg in args {
        match arg {
            WindowArg::Auto => all.extend(suitable(blocks)),
            WindowArg::None => {}
            WindowArg::Window(window) => all.push(*window),
        }
    }
    let word = |own: &Window| format!("{}+{}", own.front, own.back);
    for (place, own) in all.iter().enumerate() {
        let runs = own.front.saturating_add(own.back);
        if runs == 0 || runs >= blocks {
            let message = format!(
                "--windows {} runs {runs} of {}: some, but not all",
                word(own),
                count(blocks, "block")
            );
            return Err(bad_input_with(message, "--windows auto"));
        }
        let between = |own: &Window| own.front..blocks - own.back;
        for other in all.iter().take(place) {
            let (a, b) = (between(own), between(other));
            let inside = a.start >= b.start && a.end <= b.end || b.start >= a.start && b.end <= a.end;
            if a == b || !inside && a.start < b.end && b.start < a.end {
                let message = format!(
                    "--windows {} and {} replace blocks {a:?} and {b:?}, which must lie inside or apart from each other",
                    word(own),
                    word(other)
                );
                return Err(bad_input_with(message, "--windows auto"));
            }
        }
    }
    Ok(all)
}

/// The first and the last sixth of the blocks, and all but the last sixth.
fn suitable(blocks: usize) -> Vec<Window> {
    let sixth = blocks.div_ceil(6);
    let all = [Window { front: sixth, back: sixth }, Window { front: blocks.saturating_sub(sixth), back: 0 }];
    if blocks < 3 { Vec::new() } else { all.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str], steps: usize, blocks: usize) -> Result<Vec<[usize; 2]>> {
        let args: Vec<WindowArg> = words.iter().map(|word| word.parse().unwrap()).collect();
        Ok(windows(&args, steps, blocks)?.iter().map(|own| [own.front, own.back]).collect())
    }

    #[test]
    fn few_steps_have_windows_and_many_have_those_that_are_asked_for() {
        assert_eq!(read(&[], 4, 30).unwrap(), [[5, 5], [25, 0]]);
        assert_eq!(read(&[], 8, 6).unwrap(), [[1, 1], [5, 0]]);
        assert!(read(&[], 9, 6).unwrap().is_empty() && read(&["none"], 4, 6).unwrap().is_empty());
        assert!(read(&["auto"], 4, 2).unwrap().is_empty());
        assert_eq!(read(&["auto"], 30, 6).unwrap(), [[1, 1], [5, 0]]);
        assert_eq!(read(&["2+1", "1+0"], 30, 6).unwrap(), [[2, 1], [1, 0]]);
    }

    #[test]
    fn windows_that_cannot_be_are_named() {
        let said = |words: &[&str]| read(words, 30, 6).unwrap_err().to_string();
        assert!(said(&["0+0"]).contains("0+0 runs 0 of 6 blocks"));
        assert!(said(&["4+2"]).contains("4+2 runs 6 of 6 blocks"));
        assert!(said(&["1+2", "2+1"]).contains("replace blocks 2..5 and 1..4"));
        assert!(said(&["1+2", "1+2"]).contains("1..4 and 1..4"));
        assert!("3".parse::<WindowArg>().is_err() && "a+b".parse::<WindowArg>().is_err());
    }
}
