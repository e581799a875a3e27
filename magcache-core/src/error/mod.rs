//! Errors in configurations and profiles.

pub(crate) mod config;
pub mod hint;
pub(crate) mod problem;
mod syntax;

pub(crate) use syntax::{WORDS, syntax};

/// A number with its noun: `1 step`, `8 steps`, `2 branches`.
pub fn count(n: usize, noun: &str) -> String {
    match n {
        1 => format!("1 {noun}"),
        _ if noun.ends_with(['s', 'x']) || noun.ends_with("ch") => format!("{n} {noun}es"),
        _ => format!("{n} {noun}s"),
    }
}

/// The candidate most similar to `word`, if one is similar enough to be a likely misspelling. Without the
/// feature `keys`, one that differs in case alone.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    #[cfg(feature = "keys")]
    let score = |c: &str| strsim::jaro_winkler(&word.to_lowercase(), &c.to_lowercase());
    #[cfg(not(feature = "keys"))]
    let score = |c: &str| f64::from(word.eq_ignore_ascii_case(c));
    let (best, near) = candidates.into_iter().map(|c| (c, score(c))).max_by(|a, b| a.1.total_cmp(&b.1))?;
    (near > 0.75).then(|| best.to_owned())
}
