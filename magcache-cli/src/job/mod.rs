//! From arguments to a job: flags over the configuration file over the model's defaults.

mod ahead;
mod chosen;
mod config;
mod knob;
mod load;
pub(crate) mod model_name;
mod paths;
mod placement;
mod prompts;
mod target;
mod tuned;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Result;
use candle_core::Device;
use magcache_core::{
    CachePlan, Problem, Trajectory,
    config::{Built, CacheEntry},
    profile::{Part, Profile},
};
use magcache_models::{
    image::Picture,
    pipeline::{self, LoadOptions, Pipeline, Request, SamplingOptions},
};

pub(crate) use self::{
    ahead::decisions,
    chosen::Chosen,
    config::{Config, OutputTable, cache_table, flag},
    knob::Knob,
    prompts::{prompt, read_prompts},
    target::Target,
};

use crate::{console::bad_input, files::folder_of, media::Clip};

/// A run that is ready to start: a model and a checked request.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) pipeline: Box<dyn Pipeline>,
    pub(crate) request: Request,
    pub(crate) trajectory: Trajectory,
    pub(crate) cache: CachePlan,
    pub(crate) fps: f64,
    /// The device that it is computed on.
    pub(crate) device: Device,
    /// The choice made for a target.
    pub(crate) chosen: Option<Chosen>,
    /// The configuration that reproduces this run.
    pub(crate) config: Config,
}

impl Job {
    /// Opens the model, fills in its defaults and checks the whole request. Loads no weights.
    pub(crate) fn new(mut config: Config, options: LoadOptions) -> Result<Self> {
        let device = options.device.clone();
        let pipeline = config.open(options)?;
        let defaults = pipeline.defaults();
        let s = &config.sampling;
        let read = |path: &PathBuf| -> Result<Arc<Picture>> { Ok(Arc::new(Picture::read(path)?)) };
        let mut base = defaults.request.clone();
        base.image = match &s.image {
            Some(path) => Some(read(path)?),
            None => pipeline.default_image()?.map(Arc::new),
        };
        base.last_image = s.last_image.as_ref().map(read).transpose()?;
        if let Some(image) = &base.image {
            base.size = pipeline.size_like(image, base.width() * base.height());
        }
        let request = s.clone().request(base);
        let fps = config.output.fps.unwrap_or(defaults.fps);
        if !(fps.is_finite() && fps > 0.0) {
            return Err(bad_input(format!("`fps` is {fps}, it must be above 0")));
        }
        let request = pipeline.resolved(&request);
        pipeline.check(&request)?;
        let trajectory = pipeline.trajectory(&request)?;
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
        config.cache =
            cache.cache.iter().map(magcache_core::config::CacheEntry::to_table).collect::<Result<_, _>>()?;
        config.output.fps = Some(fps);
        config.sampling = SamplingOptions {
            flow_shift: trajectory.flow_shift,
            boundary: trajectory.boundary_ratio,
            ..request.options().over(config.sampling)
        };
        if config.model.is_none() && config.weights.is_none() {
            config.model = pipeline::default_model().map(|e| e.name.to_owned());
        }
        Ok(Self { pipeline, request, trajectory, cache, fps, device, chosen, config })
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

    /// The strategies' names, in the order of their hooks.
    pub(crate) fn strategies(&self) -> Vec<String> {
        self.cache.cache.iter().map(|entry| entry.name.clone()).collect()
    }

    /// Size and frame rate of the output.
    pub(crate) fn clip(&self) -> Clip {
        Clip {
            width: u32::try_from(self.request.width()).unwrap_or(u32::MAX),
            height: u32::try_from(self.request.height()).unwrap_or(u32::MAX),
            frames: self.request.frames,
            fps: self.fps,
        }
    }

    /// The configuration that reproduces this run from the working folder.
    pub(crate) fn to_toml(&self) -> Result<String> {
        self.config.to_toml()
    }

    /// The same, as a file next to `result`.
    pub(crate) fn to_toml_beside(&self, result: &Path) -> Result<String> {
        self.config.stored_in(folder_of(result)).to_toml()
    }
}

#[cfg(test)]
mod tests;
