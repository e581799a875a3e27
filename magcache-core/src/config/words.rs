//! The keys common to all `[[cache]]` tables, and which of them were read.

#[cfg(feature = "candle")]
use std::sync::Arc;
use std::{cell::RefCell, collections::BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    ConfigError, Expert, ModelMeta, Problem, Strategy, Warmup,
    error::nearest,
    profile::{OwnPart, Profile},
    strategy::Branches,
    table::write,
};
#[cfg(feature = "candle")]
use crate::{forecast::ForecastConfig, meta};

/// The words that every `[[cache]]` table may have, beside `strategy` and the keys of that strategy.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "keys", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Words {
    /// The blocks: a stack of the model, `3..9`, or `all` (the default). For a strategy that looks at the
    /// step alone also `forward`, the whole forward, latents in and prediction out, or a module of the model,
    /// inside every block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// A built-in profile, or the path of one; the model's own without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Which of the profile's curves, fits or sensitivities; the first without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Steps that are always computed first, or a fraction of the steps of each expert. Without it the
    /// strategy says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup: Option<Warmup>,
    /// Steps that are always computed last. Without it the strategy says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_steps: Option<usize>,
    /// Most consecutive skips. Without it the strategy says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_skips: Option<usize>,
    /// Most skips of one branch of one expert; no limit without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_total_skips: Option<usize>,
    /// Whose decision a branch takes. Without it the strategy says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branches: Option<Branches>,
    /// The experts that it acts in, by name; all of them without. In the steps of the others it is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experts: Option<Vec<String>>,
    /// What stands in for skipped blocks, such as `{ type = "taylor", order = 1 }`; the last residual without
    /// it.
    #[cfg(feature = "candle")]
    #[cfg_attr(feature = "keys", schemars(with = "Option<Box<dyn ForecastConfig>>"))]
    #[serde(skip_serializing_if = "Option::is_none", with = "shared")]
    pub forecast: Option<Arc<dyn ForecastConfig>>,
}

impl Words {
    /// The experts that the table names.
    pub(crate) fn experts(&self, model: &ModelMeta) -> Result<Vec<Expert>, ConfigError> {
        let known = || model.experts.iter().copied();
        let one = |name: &String| match known().position(|n| n == name.as_str()) {
            Some(i) => Ok(Expert(u8::try_from(i).unwrap_or(u8::MAX))),
            None => Err(ConfigError::UnknownName {
                place: "experts".to_owned(),
                kind: "expert",
                name: name.clone(),
                nearest: nearest(name, known()),
            }),
        };
        self.experts.iter().flatten().map(one).collect()
    }

    /// The blocks at the start that the forecast looks at.
    #[cfg_attr(not(feature = "candle"), expect(clippy::unused_self, reason = "there are no forecasts"))]
    pub(crate) fn front(&self) -> usize {
        #[cfg(feature = "candle")]
        return self.forecast.as_ref().map_or(0, |forecast| forecast.front());
        #[cfg(not(feature = "candle"))]
        return 0;
    }

    pub(crate) fn problems(&self, place: &str, out: &mut Vec<Problem>) {
        if let Some(Warmup::Fraction(f)) = self.warmup {
            out.extend(
                Problem::unless_in(place, "warmup", f, 0.0, 1.0).map(|p| p.hint("or a number of steps")),
            );
        }
        if self.experts.as_ref().is_some_and(Vec::is_empty) {
            let problem = Problem::error(place, "`experts` is empty: the cache would act nowhere");
            out.push(problem.hint("name at least one, or remove the key"));
        }
        #[cfg(feature = "candle")]
        if let Some(forecast) = self.forecast.as_deref() {
            out.extend(forecast.validate(place));
            let info = meta::forecasts().into_iter().find(|f| f.name == forecast.typetag_name());
            let place = format!("{place}, forecast");
            out.extend(info.iter().flat_map(|info| (info.keys)().idle(&place, &forecast)));
        }
        if self.max_skips == Some(0) || self.max_total_skips == Some(0) {
            out.push(Problem::warning(place, "a cap of 0 skips: nothing will be skipped"));
        }
    }
}

/// The common keys of a table as its strategy reads them. Reads are tracked: the user is warned about a key
/// that is given but never read, because it has no effect.
#[derive(Debug)]
pub struct Given<'a> {
    words: &'a Words,
    profile: Option<&'a Profile>,
    read: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Given<'a> {
    /// The common keys of a table, and the profile that it names or else the model's default one.
    pub fn new(words: &'a Words, profile: Option<&'a Profile>) -> Self {
        Self { words, profile, read: RefCell::default() }
    }

    fn read<T>(&self, word: &'static str, value: T) -> T {
        self.read.borrow_mut().insert(word);
        value
    }

    /// The profile that the table names, or else the model's default one.
    pub fn profile(&self) -> Option<&'a Profile> {
        self.read("profile", self.profile)
    }

    /// Which of the profile's curves or fits.
    pub fn variant(&self) -> Option<&'a str> {
        self.read("variant", self.words.variant.as_deref())
    }

    /// What the profile has of a kind defined by a strategy, `[[part.KIND]]`: that of the table's variant, or
    /// all of it, the default first. A profile without any is not read.
    ///
    /// Errors: an unknown variant.
    pub fn parts(&self, kind: &str) -> Result<Vec<&'a OwnPart>, ConfigError> {
        let Some(profile) = self.profile.filter(|profile| profile.parts.contains_key(kind)) else {
            return Ok(Vec::new());
        };
        self.read("profile", ());
        match self.variant() {
            Some(variant) => profile.parts_of(kind, Some(variant)),
            None => Ok(profile.parts.get(kind).into_iter().flatten().collect()),
        }
    }

    /// Steps, or the fraction of the phase, that are always computed first.
    pub fn warmup(&self) -> Option<Warmup> {
        self.read("warmup", self.words.warmup)
    }

    /// Steps that are always computed last.
    pub fn last_steps(&self) -> Option<usize> {
        self.read("last_steps", self.words.last_steps)
    }

    /// Most consecutive skips.
    pub fn max_skips(&self) -> Option<usize> {
        self.read("max_skips", self.words.max_skips)
    }

    /// Most skips of one branch of one expert.
    pub fn max_total_skips(&self) -> Option<usize> {
        self.read("max_total_skips", self.words.max_total_skips)
    }

    /// Whose decision a branch follows.
    pub fn branches(&self) -> Option<Branches> {
        self.read("branches", self.words.branches)
    }

    /// A warning if the strategy has read a profile that says that it is of another model, which may be
    /// meant.
    pub(crate) fn of_another(&self, place: &str, model: &ModelMeta) -> Option<Problem> {
        let profile = self.profile.filter(|_| self.read.borrow().contains("profile"))?;
        let other = profile.model.as_deref().filter(|of| *of != model.name)?;
        if model.profiles.contains(&&*profile.name) {
            return None;
        }
        let message =
            format!("the profile {:?} is of {other:?}, the model is {:?}", profile.name, model.name);
        let hint =
            "measure this model (`Recorder`, `magcache calibrate`), or add the profile to its metadata";
        Some(Problem::warning(place, message).hint(hint))
    }

    /// A warning for every key that is given but was not read while `strategy` was built.
    pub(crate) fn without_effect(&self, place: &str, name: &str, strategy: &Strategy) -> Vec<Problem> {
        let read = self.read.borrow();
        // `at` and `experts` are read by the plan, `forecast` by the adapter.
        let adapter = strategy.guards().is_some();
        let elsewhere = |word: &str| match word {
            "at" | "experts" => true,
            "forecast" => adapter,
            _ => false,
        };
        let given = write("", self.words).unwrap_or_default();
        let idle = given.keys().filter(|word| !read.contains(word.as_str()) && !elsewhere(word));
        let told = |word: &String| {
            let message = format!("`{word}` has no effect here: {name:?} does not read it");
            Problem::warning(place, message).hint(format!("remove `{word}`"))
        };
        idle.map(told).collect()
    }
}

#[cfg(feature = "candle")]
/// serde for a shared plugin: typetag reads a `Box`, but a hook keeps an `Arc`.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::forecast::ForecastConfig;

    type Shared = Option<Arc<dyn ForecastConfig>>;

    pub(super) fn serialize<S: Serializer>(forecast: &Shared, s: S) -> Result<S::Ok, S::Error> {
        forecast.as_deref().serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Shared, D::Error> {
        Ok(Option::<Box<dyn ForecastConfig>>::deserialize(d)?.map(Arc::from))
    }
}
