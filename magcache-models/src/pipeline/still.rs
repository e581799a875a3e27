//! What pipelines of single pictures share: where their parts are, the autoencoder, the picture that a run
//! begins from, and what a request may say.

use candle_core::{Device, Tensor};

use super::{Defaults, GivenFiles, LoadOptions, Phase, PipelineError, Request, Result, noise_of_stream};
use crate::{
    autoencoder::{ImageVae, ImageVaeConfig, Tiling, image::names},
    checkpoint::{CheckpointError, Folder, WeightDtype, Weights},
    image::Picture,
    recognise::Role,
};

/// The part of the schedule that runs on an image if the request does not say; the default of diffusers
/// 0.42.1.
pub(crate) const STRENGTH: f64 = 0.6;

/// Random streams of one seed: the initial noise, and the sample of the image's latents.
pub(crate) const NOISE: u64 = 0;
const IMAGE: u64 = 1;

/// The tensors of a part: a diffusers folder, or a single file in a folder.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Folder(Folder),
    File(Folder, String),
}

impl Place {
    /// Where its sizes are read from, for messages.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Folder(folder) => folder.describe_file("config.json"),
            Self::File(folder, file) => folder.describe_file(file),
        }
    }
}

/// The first single file in `folder` itself that `of` recognises. Unreadable files are skipped.
pub(crate) fn find<T>(folder: &Folder, of: impl Fn(&Weights) -> Option<T>) -> Option<(String, T)> {
    let files = folder
        .files()
        .into_iter()
        .filter(|file| [".safetensors", ".gguf"].iter().any(|ending| file.ends_with(ending)));
    files.into_iter().find_map(|file| {
        let weights = Weights::open_files(folder, &[&file], &Device::Cpu, WeightDtype::Keep).ok()?;
        Some((file, of(&weights)?))
    })
}

/// An autoencoder of pictures in a checkpoint.
#[derive(Clone, Debug)]
pub(crate) struct StillVae {
    pub(crate) config: ImageVaeConfig,
    at: Place,
}

impl StillVae {
    /// The given file, else the folder `vae`, else a single file in the model's folder. No file says what
    /// `published` does.
    ///
    /// # Errors
    /// A given file without an autoencoder; none at all; a faulty configuration.
    pub(crate) fn of(
        folder: &Folder,
        files: &GivenFiles,
        published: ImageVaeConfig,
    ) -> Result<Self, CheckpointError> {
        if let Some(given) = files.part(Role::Vae)? {
            return Ok(Self { config: published, at: Place::File(given.folder, given.file) });
        }
        let own = folder.sub("vae");
        let is_vae = |weights: &Weights| names::is_native(weights.names()).then_some(());
        match find(folder, is_vae) {
            Some((file, ())) if !own.exists("config.json") => {
                Ok(Self { config: published, at: Place::File(folder.clone(), file) })
            }
            _ => Ok(Self { config: ImageVaeConfig::read(&own)?, at: Place::Folder(own) }),
        }
    }

    /// Loads it.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub(crate) fn open(&self, device: &Device) -> Result<ImageVae, CheckpointError> {
        match &self.at {
            Place::Folder(folder) => ImageVae::open(folder, device),
            Place::File(folder, file) => ImageVae::open_file(folder, file, &self.config, device),
        }
    }

    /// What decoding a picture of the request's size holds.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(crate) fn phase(&self, request: &Request, tiling: Option<Tiling>) -> Result<Phase> {
        let (device, dtype) = (&Device::Cpu, WeightDtype::Keep);
        let weights = match &self.at {
            Place::Folder(folder) => Weights::open(folder, device, dtype)?,
            Place::File(folder, file) => {
                names::translated(Weights::open_files(folder, &[file], device, dtype)?)?
            }
        };
        let decoding = self.config.decode_memory(request.width(), request.height(), tiling);
        Ok(Phase {
            name: "autoencoder",
            weights: weights.resident_bytes(),
            scratch: weights.scratch_bytes(),
            activations: decoding.map_err(|e| PipelineError::part("autoencoder", e))?,
            caches: 0,
            everywhere: false,
        })
    }

    /// Height and width of the latents of a request's picture, with one sample and their channels.
    pub(crate) fn latents(&self, request: &Request) -> [usize; 4] {
        let scale = self.config.spatial_scale();
        [1, self.config.latent_channels, request.height() / scale, request.width() / scale]
    }

    /// The picture that runs begin from, for each request the sample of its latents that its seed gives, as
    /// in the reference; `read` makes of raw latents what the network reads.
    ///
    /// # Errors
    /// A picture that cannot be resized, an autoencoder that cannot be loaded.
    pub(crate) fn starts(
        &self,
        picture: &Picture,
        requests: &[Request],
        options: &LoadOptions,
        read: impl Fn(&ImageVae, &Tensor) -> Result<Tensor>,
    ) -> Result<Vec<Tensor>> {
        let Some(first) = requests.first() else { return Ok(Vec::new()) };
        let pixels = picture.pixels(first.width(), first.height(), &options.device);
        let pixels = pixels.map_err(|e| PipelineError::part("image", e))?;
        let vae = self.open(&options.device)?;
        let latents = vae.encode(&pixels, options.tile_vae.then(Tiling::default))?;
        let one = |request: &Request| {
            let noise = noise_of_stream(request.seed, IMAGE, &self.latents(first)[..], &options.device)?;
            read(&vae, &latents.sample(&noise)?)
        };
        requests.iter().map(one).collect()
    }
}

/// Defaults of a model of pictures.
pub(crate) fn defaults(steps: usize, guidance: f64) -> Defaults {
    let prompt = "a lighthouse above a stormy sea, evening light".to_owned();
    let request = Request { prompt, steps, size: [1024, 1024], guidance, ..Request::default() };
    Defaults { fps: 1.0, request, ..Defaults::default() }
}

/// Checks that a request is for one picture, and the strength of the one that it begins from.
pub(crate) fn check(request: &Request) -> Result<()> {
    if request.frames != 1 {
        let message = format!("{} frames: this model makes one image", request.frames);
        return Err(PipelineError::request(message, "`frames = 1`"));
    }
    let Some(strength) = request.strength else { return Ok(()) };
    if request.image.is_none() {
        let message = format!("strength is {strength}, but there is no image to begin from");
        return Err(PipelineError::request(message, "`image = FILE`"));
    }
    if !(strength > 0.0 && strength <= 1.0) {
        let message = format!("strength is {strength}, it must be above 0 and at most 1");
        let hint = "0.6 runs the last 0.6 of the steps; 1 keeps nothing of the image";
        return Err(PipelineError::request(message, hint));
    }
    if request.steps > 0 && request.first_step() >= request.steps {
        let message = format!("strength {strength} leaves none of {} steps", request.steps);
        return Err(PipelineError::request(
            message,
            format!("at least {}", 1.0 / request.steps.max(1) as f64),
        ));
    }
    Ok(())
}
