//! The configurations that are compared, by name.

use std::path::Path;

use anyhow::{Error, Result};
use magcache_core::{CachePlan, meta};

use super::fault::Fault;
use crate::{
    console::{Console, bad_input, bad_input_with},
    files::folder_of,
    job::{Chosen, Config, Job, cache_table, set_profile, tables},
    lanes::Entry,
    media::Format,
};

/// The name of the dense lane.
pub(crate) const DENSE: &str = "dense";

/// The default image of a model that starts from one: it is stored with the results, and their configurations
/// name it.
pub(crate) const IMAGE: &str = "image.png";

#[derive(Debug)]
pub(crate) struct Contender {
    pub(crate) name: String,
    pub(crate) cache: CachePlan,
    /// What is run; [`build`] makes its hooks.
    pub(crate) entry: Entry,
}

impl Contender {
    /// A configuration whose hooks are not built yet.
    pub(crate) fn new(name: String, cache: CachePlan, job: &Job) -> Self {
        Self { name, cache, entry: Entry::dense(job.request.steps) }
    }

    pub(crate) fn dense(name: &str, steps: usize) -> Self {
        Self { name: name.to_owned(), cache: CachePlan::default(), entry: Entry::dense(steps) }
    }

    /// Parses `[NAME=]STRATEGY`, `[NAME=]replay:TRACE` or `[NAME=]FILE.toml`.
    ///
    /// Only the caches of a file are used; `notes` lists its other keys that differ from the run.
    pub(crate) fn parse(
        text: &str,
        profile: Option<&str>,
        job: &Job,
        notes: &mut Vec<String>,
    ) -> Result<Self> {
        let (name, source) = split(text);
        let known = meta::strategies().iter().any(|s| s.name == source);
        let path = Path::new(source);
        let toml = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("toml"));
        let is_file = !known && (path.is_file() || toml);
        let named = name.map_or_else(|| default_name(source), str::to_owned);
        let cache = if is_file && !source.starts_with("replay:") {
            let mut config = Config::read(path)?;
            if let Some(target) = config.target.take() {
                let (meta, run) = (job.pipeline.meta(), &job.trajectory);
                let sizes = job.pipeline.sizes(&job.request)?;
                let chosen = target.choose(&config.cache, &config.residuals, meta, run, Some(&sizes))?;
                notes.push(chosen_note(&named, &chosen));
                config.cache = chosen.tables;
            }
            if config.cache.is_empty() {
                let hint = "it would be the dense run, which is always there";
                return Err(bad_input_with(
                    format!("{source} has neither a [[cache]] table nor a target"),
                    hint,
                ));
            }
            notes.extend(job.config.others(&config).into_iter().map(|keys| {
                format!("of {source} only the caches are compared, this comparison has its own {keys}")
            }));
            config.caches()?
        } else {
            let mut table = cache_table(source, &[])?;
            if let Some(profile) = profile {
                set_profile(&mut table, profile);
            }
            CachePlan::from_tables(vec![table], job.config.residuals.clone())?
        };
        Ok(Self::new(named, cache, job))
    }

    /// The configuration that reproduces this run, as TOML next to `shown`, where its pictures go.
    pub(crate) fn to_toml(&self, job: &Job, shown: &Path) -> Result<String> {
        let mut config = job.config.clone();
        config.cache = tables(&self.cache)?;
        config.residuals = self.cache.residuals.clone();
        config.sampling.steps = Some(self.entry.steps);
        config.output.path = Some(shown.to_owned());
        if config.sampling.image.is_none() && job.request.image.is_some() {
            config.sampling.image = Some(shown.with_file_name(IMAGE));
        }
        config.stored_in(folder_of(shown)).to_toml()
    }

    /// The file name of this run's pictures.
    pub(crate) fn file(&self, ending: &str) -> String {
        format!("{}.{ending}", file_stem(&self.name))
    }
}

/// The strategies that are compared when the user names none. A note tells which are left out: those that
/// need a profile, if there is none.
pub(crate) fn shown(profile: Option<&str>, job: &Job, notes: &mut Vec<String>) -> Result<Vec<Contender>> {
    let mut all = Vec::new();
    let mut left_out = Vec::new();
    for name in magcache_strategies::SHOWN {
        let contender = Contender::parse(name, profile, job, notes)?;
        let reads = contender.cache.cache.iter().any(|entry| !entry.reads().is_empty());
        if reads && profile.is_none() && job.pipeline.meta().profiles.is_empty() {
            left_out.push(name);
        } else {
            all.push(contender);
        }
    }
    if !left_out.is_empty() {
        notes.push(format!(
            "{} are left out: they need a profile, and {} has none; magcache calibrate measures one",
            left_out.join(" and "),
            job.pipeline.meta().name
        ));
    }
    Ok(all)
}

/// Checks all contenders against the model, the run and each other, and builds their hooks.
///
/// Errors: everything that is wrong with any of them.
pub(crate) fn build(
    contenders: &mut [Contender],
    job: &Job,
    mut faults: Vec<Fault>,
    out: &Console,
) -> Result<()> {
    for i in 0..contenders.len() {
        let (earlier, rest) = contenders.split_at_mut(i);
        let Some(contender) = rest.first_mut() else { continue };
        faults.extend(name_error(&contender.name, earlier).map(|error| Fault::new(&contender.name, error)));
        match job.build_hooks(&contender.cache) {
            Ok(built) => {
                for warning in &built.warnings {
                    out.warn(&format!("{}: {warning}", contender.name), warning.hint.as_deref());
                }
                contender.entry.registry = built.registry;
            }
            Err(error) => faults.push(Fault::new(&contender.name, error)),
        }
    }
    Fault::none_of(faults)
}

/// The choice made for a lane's target, and how far it misses it.
pub(crate) fn chosen_note(name: &str, chosen: &Chosen) -> String {
    let short = chosen.short.as_ref().map_or(String::new(), |short| format!("; {short}"));
    format!("{name}: {}{short}", chosen.text())
}

/// Splits a name from its source. A `=` after the first path separator belongs to the path.
fn split(text: &str) -> (Option<&str>, &str) {
    match text.split_once('=') {
        Some((name, source)) if !name.is_empty() && !name.contains(['/', '\\', ':']) => {
            (Some(name.trim()), source)
        }
        _ => (None, text),
    }
}

/// The name derived from a source: `magcache` of `magcache`, `mine` of `some/mine.toml`, of a stored
/// `some/mine.mp4.toml` and of `replay:some/mine.jsonl`.
pub(crate) fn default_name(source: &str) -> String {
    let path = Path::new(source.strip_prefix("replay:").unwrap_or(source));
    let Some(stem) = path.file_stem().map(Path::new) else { return source.to_owned() };
    let is_result =
        stem.extension().is_some() && Format::of(stem).is_ok_and(|format| format != Format::Folder);
    let name = if is_result { stem.file_stem().unwrap_or_default() } else { stem.as_os_str() };
    name.to_string_lossy().into_owned()
}

/// The name as a file name that is valid on every system.
pub(crate) fn file_stem(name: &str) -> String {
    let keep = |c: char| if c.is_alphanumeric() || "-_.+".contains(c) { c } else { '-' };
    name.trim_start_matches('.').chars().map(keep).collect()
}

/// Why a lane cannot have this name, given the `earlier` ones.
fn name_error(name: &str, earlier: &[Contender]) -> Option<Error> {
    let file = |name: &str| file_stem(name).to_lowercase();
    let own = file(name);
    let number = own.strip_suffix("-steps").or(own.strip_suffix("-step"));
    if own.is_empty() {
        return Some(bad_input(format!("a lane cannot be called {name:?}")));
    }
    if IMAGE.strip_suffix(".png") == Some(own.as_str()) {
        return Some(bad_input_with(
            format!("{name:?} is the name of the given image"),
            format!("mine={name}"),
        ));
    }
    if own == DENSE || number.is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit())) {
        let message = format!("{name:?} is the name of a lane that is always there");
        return Some(bad_input_with(message, format!("another name: mine={name}")));
    }
    let twin = earlier.iter().find(|other| file(&other.name) == own)?;
    let message = format!("two lanes would be called {:?}", twin.name);
    Some(bad_input_with(message, format!("give one another name: other={name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_what_is_named() {
        assert_eq!(split("magcache"), (None, "magcache"));
        assert_eq!(split("fast=magcache"), (Some("fast"), "magcache"));
        assert_eq!(split("a/b=c.toml"), (None, "a/b=c.toml"));
        assert_eq!(split("replay:a=b.jsonl"), (None, "replay:a=b.jsonl"));
        assert_eq!(split("x=replay:a=b.jsonl"), (Some("x"), "replay:a=b.jsonl"));
        assert_eq!(default_name("some/mine.toml"), "mine");
        assert_eq!(default_name("some/mine.mp4.toml"), "mine");
        assert_eq!(default_name("some/v1.2.toml"), "v1.2");
        assert_eq!(default_name("replay:t.jsonl"), "t");
        assert_eq!(default_name("fbcache"), "fbcache");
    }

    #[test]
    fn a_file_name_is_good_everywhere() {
        assert_eq!(file_stem("16 steps"), "16-steps");
        assert_eq!(file_stem("..a/b\\c:\"d"), "a-b-c--d");
        assert_eq!(file_stem("größer"), "größer");
    }

    #[test]
    fn names_do_not_meet() {
        let lane = |name: &str| Contender::dense(name, 1);
        let refused = |name: &str, earlier: &[Contender]| name_error(name, earlier).map(|e| e.to_string());
        assert_eq!(refused("a", &[lane("b")]), None);
        assert_eq!(refused("x steps", &[]), None);
        let text = refused("A b", &[lane("b"), lane("a-B")]).unwrap();
        assert_eq!(text, "two lanes would be called \"a-B\"");
        for name in ["dense", "16 steps", "image", "", ".."] {
            assert!(refused(name, &[]).is_some(), "{name:?}");
        }
    }
}
