//! From `[[cache]]` tables to hooks.

use std::ops::Range;

use serde::Deserialize;

use crate::{
    BuildCx, ConfigError, Level, ModelMeta, Problem, Trajectory,
    config::{
        CacheEntry, Given, Residuals,
        exclusion::{self, Placed},
    },
    error::{count, syntax},
    log::AuditPolicy,
    meta::{self, FORWARD},
    profile::Profile,
    state::HookId,
    table::read,
};

/// The hooks of a run: the `[[cache]]` tables, outermost first, `[residuals]` and `[audit]`.
#[derive(Debug, Default)]
pub struct CachePlan {
    /// The tables.
    pub cache: Vec<CacheEntry>,
    /// How residuals are stored.
    pub residuals: Residuals,
    /// Which reuses are audited.
    pub audit: AuditPolicy,
}

/// The tables of a plan, each placed in a model and built, and the warnings to show before the run.
pub(crate) struct Resolved<'a> {
    pub(crate) placed: Vec<Placed<'a>>,
    pub(crate) warnings: Vec<Problem>,
}

/// An error if a forecast looks at blocks that are not there.
fn without_front(place: &str, level: Level, range: &Range<usize>, front: usize) -> Option<Problem> {
    if front == 0 || level == Level::Blocks && front < range.len() {
        return None;
    }
    let place = format!("{place}, forecast");
    if level != Level::Blocks {
        let message = "it looks at what the first blocks do, and here it stands in for something else";
        return Some(
            Problem::error(place, message).hint("use another forecast, or a range of blocks as `at`"),
        );
    }
    let (first, blocks) = (count(front, "block"), count(range.len(), "block"));
    let message =
        format!("it looks at what leaves the first {first}, the range has {blocks}: nothing is left to skip");
    Some(Problem::error(place, message).hint("use another forecast, or a longer range"))
}

impl CachePlan {
    /// Parses a document that holds the `cache` array, the tables `residuals` and `audit`, and nothing else.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Document {
            #[serde(default)]
            cache: Vec<toml::Table>,
            #[serde(default)]
            residuals: toml::Table,
            #[serde(default)]
            audit: toml::Table,
        }
        let table: toml::Table = toml::from_str(text).map_err(|e| syntax("configuration", &e))?;
        let document: Document = read("configuration", table)?;
        let plan = Self::from_tables(document.cache, read("[residuals]", document.residuals)?)?;
        Ok(Self { audit: read("[audit]", document.audit)?, ..plan })
    }

    /// Reads tables that were parsed elsewhere.
    pub fn from_tables(cache: Vec<toml::Table>, residuals: Residuals) -> Result<Self, ConfigError> {
        let entry = |(i, table)| CacheEntry::from_table(&format!("cache[{i}]"), table);
        let cache = cache.into_iter().enumerate().map(entry).collect::<Result<_, _>>()?;
        Ok(Self { cache, residuals, audit: AuditPolicy::default() })
    }

    /// Validates everything against the model and the run, and builds the strategies. A table reads the
    /// profile that it names, among `profiles` or else anywhere; a table that names none reads the first of
    /// `profiles`, or else the model's default one.
    ///
    /// Errors: all fatal problems at once.
    pub(crate) fn resolve<'a>(
        &'a self,
        model: &'a ModelMeta,
        trajectory: Option<&Trajectory>,
        profiles: &[Profile],
    ) -> Result<Resolved<'a>, ConfigError> {
        let mut problems = model.problems();
        problems.extend(self.audit.problems());
        let mut placed: Vec<Placed<'_>> = Vec::new();
        for (i, entry) in self.cache.iter().enumerate() {
            let place = format!("cache[{i}] (strategy {:?})", entry.name);
            let words = &entry.words;
            words.problems(&place, &mut problems);
            let own =
                meta::strategies().iter().find(|s| s.name == entry.name).map_or(Level::Blocks, |s| s.level);
            let module = words.at.as_deref().filter(|at| model.modules.contains(at));
            let (level, range) = match (own, words.at.as_deref()) {
                (_, Some(FORWARD)) | (Level::Forward, None) => (Level::Forward, Ok(0..1)),
                (Level::Blocks | Level::Modules, _) if module.is_some() => {
                    (Level::Modules, Ok(model.whole()))
                }
                (Level::Blocks | Level::Modules, at) => (Level::Blocks, model.range(at.unwrap_or("all"))),
                (Level::Forward, Some(at)) => {
                    let message = format!("`at` is {at:?}, but this strategy acts on the whole forward");
                    problems.push(Problem::error(&place, message).hint("remove `at`"));
                    (Level::Forward, Ok(0..1))
                }
            };
            let find = |name: &str| Profile::find_among(name, profiles);
            let default = || match (profiles.first(), model.profiles.first()) {
                (Some(profile), _) => Some(Ok(profile.clone())),
                (None, name) => name.map(|name| Profile::find(name)),
            };
            let profile = words.profile.as_deref().map(find).or_else(default).transpose();
            let of = |key: &str| format!("{place}, {key}");
            let range = range.map_err(|error| problems.push(error.found_at(of("at"))));
            let experts = words.experts(model).map_err(|error| problems.push(error.found_at(of("experts"))));
            let profile = profile.map_err(|error| problems.push(error.found_at(of("profile"))));
            let (Ok(range), Ok(experts), Ok(profile)) = (range, experts, profile) else { continue };
            let given = Given::new(words, profile.as_ref());
            let id = HookId(u16::try_from(i).unwrap_or(u16::MAX));
            let cx = BuildCx {
                place: &place,
                id,
                model,
                range: range.clone(),
                trajectory,
                words: &given,
                experts: &experts,
            };
            let found = cx.check(&*entry.config);
            let fatal = found.iter().any(|p| p.fatal);
            problems.extend(found);
            let strategy = if fatal { None } else { Some(entry.config.build(&cx)?) };
            problems.extend(strategy.iter().flat_map(|s| given.without_effect(&place, &entry.name, s)));
            problems.extend(given.of_another(&place, model));
            if own != level && strategy.as_ref().is_some_and(|strategy| !strategy.is_blind()) {
                let at = module.unwrap_or(FORWARD);
                let message = format!("`at` is {at:?}, but {:?} looks at what the blocks do", entry.name);
                let hint = "remove `at`, or use a strategy that looks at the step alone, such as schedule";
                problems.push(Problem::error(&place, message).hint(hint));
            }
            let front = words.front();
            problems.extend(without_front(&place, level, &range, front));
            let name = &entry.name;
            placed.push(Placed {
                name,
                place: place.clone(),
                level,
                range,
                module,
                experts,
                front,
                strategy,
            });
        }
        problems.extend(exclusion::problems(&placed, model));
        if problems.iter().any(|p| p.fatal) {
            problems.retain(|p| p.fatal);
            return Err(ConfigError::Problems(problems));
        }
        Ok(Resolved { placed, warnings: problems })
    }
}
