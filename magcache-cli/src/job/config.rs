//! The configuration of a run: a file, and the flags over it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use magcache_core::{
    CachePlan, ConfigError,
    config::{Residuals, Words},
    log::AuditPolicy,
    schemars,
};
use magcache_hub::{Fetched, Hub, Name, Part};
use magcache_models::{
    checkpoint::Folder,
    pipeline::{self, LoadOptions, Pipeline, SamplingOption, SamplingOptions},
};
use serde::{Deserialize, Serialize};

use super::{builtin, model_name, target::Target};
use crate::{
    args::{Files, Lora, Sampling, SoundMode},
    console::{Console, bad_input, bad_input_with},
    files::utf8,
    replay::exchange,
};

/// What a run, a schedule or a comparison is asked for. A flag of the same name goes before a key of the
/// file.
#[derive(Clone, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// The name of a model that is inside the program or on the hub (`OWNER/NAME`); the first of `magcache
    /// list` without it and without `weights`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<String>,
    /// The folder of a checkpoint, in place of `model`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) weights: Option<PathBuf>,
    /// Files in place of parts of the checkpoint, or all of it.
    #[serde(skip_serializing_if = "Files::is_default")]
    pub(crate) files: Files,
    /// Adapters of the network.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) lora: Vec<Lora>,
    /// What is generated, and how. Every key has the model's own default.
    pub(crate) sampling: SamplingOptions,
    /// How residuals are stored.
    #[serde(skip_serializing_if = "Residuals::is_default")]
    pub(crate) residuals: Residuals,
    /// How many reuses are checked against the truth, and what is done about their error.
    #[serde(skip_serializing_if = "AuditPolicy::is_default")]
    pub(crate) audit: AuditPolicy,
    /// Where the result goes.
    pub(crate) output: OutputTable,
    /// What is asked for in place of a threshold: one of `budget`, `speedup` and `psnr`. The planner chooses
    /// the `[[cache]]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<Target>,
    /// The caches, the outermost first: these words, beside `strategy` and the keys of that strategy.
    #[schemars(with = "Vec<Words>")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) cache: Vec<toml::Table>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct OutputTable {
    /// The file, whose ending is its format, or a folder for single frames.
    pub(crate) path: Option<PathBuf>,
    /// Frames per second of a video; the model's own without it.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub(crate) fps: Option<f64>,
    /// How a video of someone who speaks sounds; in sync without it.
    pub(crate) sound: Option<SoundMode>,
}

/// The name for `--cache` that disables the caches of a file.
const NO_CACHE: &str = "none";

impl Config {
    /// Reads a file; its paths are relative to its folder.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let read = std::fs::read_to_string(path);
        let text = read.map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let config: Self =
            toml::from_str(&text).map_err(|e| ConfigError::toml(&path.display().to_string(), &e))?;
        Ok(config.read_from(path.parent().unwrap_or(Path::new(""))))
    }

    /// The file of `--config`, if any, overridden by the flags.
    pub(crate) fn of(flags: &Sampling, out: &Console) -> Result<Self> {
        let mut config = flags.config.as_deref().map(Self::read).transpose()?.unwrap_or_default();
        if let Some(model) = &flags.model {
            let path = PathBuf::from(model);
            // A folder with the name of a model without weights is meant as a folder.
            let known = model_name::is_without_weights(model) && !path.exists();
            let named = known || model_name::embedded(model).is_some() || model_name::on_hub(model).is_some();
            (config.model, config.weights) =
                if named { (Some(model.clone()), None) } else { (None, Some(path)) };
        }
        for (option, path) in flags.options.files() {
            utf8(&flag(option), path)?;
        }
        config.sampling = flags.options.clone().over(config.sampling);
        config.files = flags.files.clone().over(config.files);
        if !flags.loras.lora.is_empty() {
            config.lora.clone_from(&flags.loras.lora);
        }
        config.lora.iter_mut().for_each(|lora| lora.skip_unknown |= flags.loras.lora_skip_unknown);
        match flags.cache.as_deref() {
            Some(NO_CACHE) => config.without_cache(flags)?,
            Some(name) => config.cache = vec![cache_table(name, &flags.set)?],
            None => {}
        }
        if let Some(profile) = &flags.profile {
            for table in &mut config.cache {
                set_profile(table, profile);
            }
        }
        config.target = Target::of(flags, config.target.take());
        // What is in the cache is looked up again when it is opened.
        let model = config.model.as_deref().and_then(model_name::on_hub);
        let parts = config.parts_on_hub();
        model.iter().chain(&parts).try_for_each(|name| model_name::fetch(name, out).map(drop))?;
        Ok(config)
    }

    /// Applies `--cache none`: removes the file's caches and its target.
    fn without_cache(&mut self, flags: &Sampling) -> Result<()> {
        let target = flags.budget.is_some() || flags.speedup.is_some() || flags.psnr.is_some();
        if target || !flags.set.is_empty() {
            let message = "--cache none is a run without a cache, a target and --set are about one";
            return Err(bad_input_with(message, "leave one of them out"));
        }
        self.cache.clear();
        self.target = None;
        Ok(())
    }

    /// Files of weights and tokenizers, and what each is of a repository on the hub.
    pub(crate) fn weight_files(&mut self) -> impl Iterator<Item = (Part, &mut PathBuf)> {
        let adapters = self.lora.iter_mut().map(|lora| (Part::File, &mut lora.file));
        self.files.paths_mut().chain(adapters)
    }

    /// Those of them that are on the hub.
    fn parts_on_hub(&mut self) -> Vec<Name> {
        let here = Path::new("");
        self.weight_files().filter_map(|(part, path)| model_name::part_on_hub(part, path, here)).collect()
    }

    /// Opens the model it names; reads only configuration files.
    pub(crate) fn open(&self, options: LoadOptions) -> Result<Box<dyn Pipeline>> {
        let mut here = self.clone();
        for (part, path) in here.weight_files() {
            *path = model_name::path_of(part, path)?;
        }
        let mut files = here.files.given();
        let model = self.model_typed();
        let folder = match (&self.weights, &self.model) {
            (Some(_), Some(_)) => {
                return Err(bad_input("both `model` and `weights` are given, one is enough"));
            }
            // A file is the transformer, and may be everything.
            (Some(path), None) if path.is_file() => {
                if files.transformer.replace(path.clone()).is_some() {
                    let message = "the model is a file, and --transformer is another one";
                    return Err(bad_input_with(message, "--model DIR, or one of the files"));
                }
                model_name::no_folder()
            }
            (Some(path), None) => model_name::folder(path)?,
            (None, None) if files.transformer.is_some() => model_name::no_folder(),
            (None, None) => model_name::default_folder()?,
            (None, Some(typed)) if model_name::on_hub(typed).is_some() => {
                let Some(name) = model_name::on_hub(typed) else { return Err(bad_input("no name")) };
                match Hub::from_env().local(&name) {
                    Some(Fetched::Folder(path)) => Folder::open(path)?,
                    Some(Fetched::Files(found)) => {
                        let mut found = found.into_iter();
                        files.transformer = files.transformer.or(found.next());
                        files.transformer_2 = files.transformer_2.or(found.next());
                        model_name::no_folder()
                    }
                    None => return Err(model_name::not_here(&name)),
                }
            }
            (None, Some(name)) => {
                magcache_core::meta::model(name)?;
                model_name::folder(Path::new(name))?
            }
        };
        let adapters = here.lora.iter().map(|lora| builtin::adapter(lora, &model)).collect::<Result<_>>()?;
        Ok(pipeline::open(folder, LoadOptions { files, adapters, ..options })?)
    }

    /// The model's name, or its path.
    fn model_typed(&self) -> String {
        let path = self.weights.as_ref().or(self.files.transformer.as_ref());
        let own = path.map(|path| path.display().to_string());
        let first = || pipeline::default_model().map(|first| first.name.to_owned());
        self.model.clone().or(own).or_else(first).unwrap_or_default()
    }

    /// The model and sampling keys in which `other` differs from this configuration, as a list; `None` if
    /// there are none.
    pub(crate) fn others(&self, other: &Self) -> Option<String> {
        let table = |sampling: &SamplingOptions| toml::Table::try_from(sampling).unwrap_or_default();
        let own = table(&self.sampling);
        let different = table(&other.sampling).into_iter().filter(|(key, value)| own.get(key) != Some(value));
        let mut keys: Vec<String> = different.map(|(key, _)| format!("`{key}`")).collect();
        if other.model.is_some() && other.model != self.model {
            keys.push("`model`".to_owned());
        }
        if other.weights.is_some() && other.weights != self.weights {
            keys.push("`weights`".to_owned());
        }
        (!keys.is_empty()).then(|| keys.join(", "))
    }

    /// The configuration as a file.
    pub(crate) fn to_toml(&self) -> Result<String> {
        toml::to_string(self).context("cannot write the configuration as TOML")
    }

    /// The cache plan.
    pub(crate) fn caches(&self) -> Result<CachePlan> {
        let plan = CachePlan::from_tables(self.cache.clone(), self.residuals.clone())?;
        Ok(CachePlan { audit: self.audit, ..plan })
    }
}

/// Sets the profile that a `[[cache]]` table reads.
pub(crate) fn set_profile(table: &mut toml::Table, profile: &str) {
    table.insert("profile".to_owned(), profile.into());
}

/// The flag of an option.
pub(crate) fn flag(option: SamplingOption) -> String {
    format!("--{}", option.key().replace('_', "-"))
}

/// The `[[cache]]` table that `--cache` and `--set` describe.
pub(crate) fn cache_table(name: &str, set: &[String]) -> Result<toml::Table> {
    let mut table = match name.strip_prefix("replay:") {
        Some(path) => exchange::read(Path::new(path))?,
        None => toml::Table::from_iter([("strategy".to_owned(), name.into())]),
    };
    for pair in set {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(bad_input_with(format!("--set {pair:?} has no `=`"), "--set threshold=0.1"));
        };
        // Parses a value, not a document, in which a second line would be another key. An unquoted word is
        // taken as a string.
        let value = value.trim().parse().unwrap_or_else(|_| toml::Value::String(value.to_owned()));
        table.insert(key.trim().to_owned(), value);
    }
    Ok(table)
}
