//! From arguments to a job: flags over the configuration file over the model's defaults.

pub(crate) mod builtin;
mod config;
mod flags;
mod given;
mod memory;
pub(crate) mod model_name;
mod paths;
mod target;
mod tuned;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Error, Result};
use candle_core::Device;
use magcache_core::{
    CachePlan, ConfigError, HookRegistry, ModelMeta, Problem, Trajectory,
    config::{Built, CacheEntry, Residuals},
    log::DecisionLog,
    profile::{Part, Profile},
    schedule::{Sizes, simulate, simulate_sized},
};
use magcache_models::{
    blocks::Traffic,
    checkpoint::{AdapterReport, Ops},
    pipeline::{
        self, Denoiser, LoadOptions, Offload, Pipeline, PipelineError, Request, SamplingOptions, Stage,
    },
    ranks::Ranks,
};

pub(crate) use self::{
    config::{Config, OutputTable, cache_table, flag, set_profile},
    flags::{device, prompt, read_prompts},
    given::Sound,
    memory::cache_bytes,
    target::{Chosen, Target},
    tuned::Knob,
};
use crate::{
    args::SoundMode,
    console::{bad_input, bad_input_with},
    files::folder_of,
    media::{self, Destination, VideoShape},
};

/// One for each of several requests.
pub(crate) type Denoisers = Vec<Arc<dyn Denoiser>>;

/// A run that is ready to start: a model and a checked request.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) pipeline: Box<dyn Pipeline>,
    pub(crate) request: Request,
    pub(crate) trajectory: Trajectory,
    /// Frames of the result.
    pub(crate) frames: usize,
    pub(crate) cache: CachePlan,
    pub(crate) fps: f64,
    /// The device that it is computed on, and the operations of its layers.
    pub(crate) device: Device,
    pub(crate) ops: Ops,
    /// The ranks that it is divided among, if there are several.
    pub(crate) ranks: Option<Ranks>,
    /// Whether these divide the weights too.
    pub(crate) shard: bool,
    /// Where idle weights are, and what is fetched of them.
    pub(crate) offload: Offload,
    pub(crate) traffic: Traffic,
    pub(crate) chosen: Option<Chosen>,
    /// The recording that is heard with the video.
    pub(crate) sound: Option<Sound>,
    /// What adapters do to the network.
    pub(crate) adapters: Vec<AdapterReport>,
    /// The configuration that reproduces this run.
    pub(crate) config: Config,
}

impl Job {
    /// Opens the model, fills in its defaults and checks the whole request. Loads no weights.
    pub(crate) fn new(mut config: Config, options: LoadOptions) -> Result<Self> {
        let (device, ops, shard, offload) =
            (options.device.clone(), options.ops, options.shard, options.offload);
        let (ranks, traffic) = (options.ranks.clone(), options.traffic.clone());
        let pipeline = config.open(options)?;
        let defaults = pipeline.defaults();
        let mut base = defaults.request.clone();
        let sound = given::read(&config.sampling, &*pipeline, &mut base)?;
        let pictures = [&base.image_3, &base.image_2, &base.image];
        if let Some(last) = pictures.into_iter().flatten().next().cloned() {
            base.size = pipeline.size_like(&last, base.width() * base.height());
        }
        let request = config.sampling.clone().request(base);
        let fps = config.output.fps.unwrap_or(defaults.fps);
        if !(fps.is_finite() && fps > 0.0) {
            return Err(bad_input(format!("`fps` is {fps}, it must be above 0")));
        }
        let request = pipeline.resolved(&request);
        pipeline.check(&request)?;
        let trajectory = pipeline.trajectory(&request)?;
        let frames = pipeline.frames(&request)?;
        let target = config.target.take();
        let choose = |target: Target| {
            let sizes = pipeline.sizes(&request)?;
            target.choose(&config.cache, &config.residuals, pipeline.meta(), &trajectory, Some(&sizes))
        };
        let chosen = target.map(choose).transpose()?;
        if let Some(chosen) = &chosen {
            config.cache.clone_from(&chosen.tables);
        }
        let cache = config.caches()?;
        config.cache = tables(&cache)?;
        config.output.fps = Some(fps);
        config.sampling = SamplingOptions {
            flow_shift: trajectory.flow_shift,
            boundary: trajectory.boundary_ratio,
            ..request.options().over(config.sampling)
        };
        if config.model.is_none() && config.weights.is_none() && config.files.transformer.is_none() {
            config.model = pipeline::default_model().map(|e| e.name.to_owned());
        }
        let adapters = pipeline.adapters()?;
        Ok(Self {
            pipeline,
            request,
            trajectory,
            frames,
            cache,
            fps,
            device,
            ops,
            ranks,
            shard,
            offload,
            traffic,
            chosen,
            sound,
            adapters,
            config,
        })
    }

    /// Builds the hooks, with notes for the user before the run.
    pub(crate) fn build(&self) -> Result<Built> {
        self.build_hooks(&self.cache)
    }

    /// Builds hooks for other caches than the job's own.
    pub(crate) fn build_hooks(&self, cache: &CachePlan) -> Result<Built> {
        let mut built = cache.build(self.pipeline.meta(), Some(&self.trajectory))?;
        if self.request.image.is_some() {
            for entry in &cache.cache {
                built.warnings.extend(self.other_curve(entry)?);
            }
        }
        Ok(built)
    }

    /// The hooks of `[[cache]]` tables, without anything stored in another precision.
    pub(crate) fn hooks_of(&self, tables: Vec<toml::Table>) -> Result<Arc<HookRegistry>> {
        let plan = CachePlan::from_tables(tables, Residuals::default())?;
        Ok(plan.build(self.pipeline.meta(), Some(&self.trajectory))?.registry)
    }

    /// Loads the network with the prompts of `request`; returns it with notes for the user. `now` is called
    /// with each stage.
    pub(crate) fn load(
        &self,
        request: &Request,
        now: &dyn Fn(&'static str),
    ) -> pipeline::Result<(Arc<dyn Denoiser>, Vec<String>)> {
        let mut notes = Vec::new();
        let denoiser = self.pipeline.denoiser(request, &|stage| now(stage_name(stage)), &mut notes)?;
        notes.extend(self.of_weights());
        Ok((denoiser, notes))
    }

    /// As [`Job::load`] for requests that differ in prompt and seed alone: the network is loaded once.
    pub(crate) fn load_each(
        &self,
        requests: &[Request],
        now: &dyn Fn(&'static str),
    ) -> pipeline::Result<(Denoisers, Vec<String>)> {
        let mut notes = Vec::new();
        let denoisers = self.pipeline.denoisers(requests, &|stage| now(stage_name(stage)), &mut notes)?;
        notes.extend(self.of_weights());
        Ok((denoisers, notes))
    }

    /// What was left out of files of weights.
    fn of_weights(&self) -> Vec<String> {
        let adapters = self.adapters.iter().flat_map(AdapterReport::warnings);
        self.pipeline.unread().into_iter().chain(adapters).collect()
    }

    /// An error of a step; if numbers were not finite, that of the tensor that was not, if there is one.
    pub(crate) fn explained(&self, error: PipelineError) -> Error {
        if !matches!(error, PipelineError::NotFinite { .. }) {
            return error.into();
        }
        match self.pipeline.check_weights() {
            Ok(()) => error.into(),
            Err(fault) => Error::from(fault).context(error.to_string()),
        }
    }

    /// Warns if a run with an image uses a profile whose default curve is not its curve for images.
    fn other_curve(&self, entry: &CacheEntry) -> Result<Option<Problem>> {
        const IMAGE: &str = "i2v";
        let words = &entry.words;
        let name = words.profile.as_deref().or(self.pipeline.meta().profiles.first().copied());
        let (Some(name), None) = (name, &words.variant) else { return Ok(None) };
        if entry.reads().iter().all(|(_, part)| *part != Part::Curves) {
            return Ok(None);
        }
        let curves = Profile::find(name)?.curves;
        let default = curves.first().and_then(|curve| curve.variant.clone());
        let has = curves.iter().any(|curve| curve.variant.as_deref() == Some(IMAGE));
        Ok(default.filter(|default| has && default != IMAGE).map(|default| {
            let message = format!("the run begins with an image, the curve of {name} is that of {default:?}");
            Problem::warning(format!("strategy {:?}", entry.name), message).hint("--set variant=i2v")
        }))
    }

    /// The file beside a result that holds its sound, if there will be one.
    pub(crate) fn sound_beside(&self, result: &Path) -> Option<PathBuf> {
        let heard = self.sound.is_some() && self.config.output.sound != Some(SoundMode::None);
        media::sound_beside(result).filter(|_| heard)
    }

    /// Adds the recording to a destination, if it is to be heard.
    ///
    /// # Errors
    /// A recording that cannot be cut, or that would not go with the pictures at this speed.
    pub(crate) fn with_sound(&self, target: Destination) -> Result<Destination> {
        let mode = self.config.output.sound.unwrap_or_default();
        let Some(sound) = self.sound.as_ref().filter(|_| mode != SoundMode::None) else { return Ok(target) };
        let own = self.pipeline.defaults().fps;
        if (self.fps - own).abs() > f64::EPSILON {
            let message = format!("`fps` is {}, the sound goes with {own} frames a second", self.fps);
            return Err(bad_input_with(message, "leave `fps` out, or `sound = \"none\"`"));
        }
        let cut_off = self.pipeline.frames_cut_off(&self.request) as f64 / own;
        let start = if mode == SoundMode::Published { 0.0 } else { cut_off };
        Ok(target.with_sound(sound.path(), start)?)
    }

    pub(crate) fn video_shape(&self) -> VideoShape {
        VideoShape {
            width: u32::try_from(self.request.width()).unwrap_or(u32::MAX),
            height: u32::try_from(self.request.height()).unwrap_or(u32::MAX),
            frames: self.frames,
            fps: self.fps,
        }
    }

    /// The configuration that reproduces this run, as a file next to `result`.
    pub(crate) fn to_toml_next_to(&self, result: &Path) -> Result<String> {
        self.config.stored_in(folder_of(result)).to_toml()
    }
}

pub(crate) fn strategies(plan: &CachePlan) -> Vec<String> {
    plan.cache.iter().map(|entry| entry.name.clone()).collect()
}

/// The `[[cache]]` tables that read back as this plan.
pub(crate) fn tables(plan: &CachePlan) -> Result<Vec<toml::Table>, ConfigError> {
    plan.cache.iter().map(CacheEntry::to_table).collect()
}

/// Every decision of a run; `sizes` are the sizes of its tensors, if known.
pub(crate) fn decisions(
    registry: &Arc<HookRegistry>,
    model: &ModelMeta,
    run: &Trajectory,
    sizes: Option<&Sizes>,
) -> Result<DecisionLog> {
    match (registry.storage().budget, sizes) {
        (None, _) => Ok(simulate(registry, model, run)?),
        (Some(_), Some(sizes)) => Ok(simulate_sized(registry, model, run, sizes)?.log),
        (Some(budget), None) => {
            let message = format!(
                "what a budget of {budget} bytes drops follows from the size of what is made, which a profile does not say"
            );
            Err(bad_input_with(message, "--model DIR, or remove `budget` from [residuals]"))
        }
    }
}

fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::EncodingPrompt => "encoding the prompt",
        Stage::EncodingAudio => "encoding the recording",
        Stage::EncodingImage => "encoding the image",
        Stage::LoadingTransformer => "loading the transformer",
        Stage::LoadingVae => "loading the autoencoder",
    }
}

#[cfg(test)]
mod tests;
