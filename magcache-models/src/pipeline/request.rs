//! A complete request, and the defaults of a checkpoint.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Request, SamplingOptions};

/// The default seed.
const SEED: u64 = 42;

/// One image without a size, which defaults are written over.
impl Default for Request {
    fn default() -> Self {
        Self { seed: SEED, frames: 1, ..Self::empty() }
    }
}

impl Request {
    /// Pixels per row.
    pub fn width(&self) -> usize {
        self.size[0]
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.size[1]
    }

    /// The first step that runs: 0, or where `strength` starts. Source: `get_timesteps` of diffusers'
    /// `FluxImg2ImgPipeline` (0.42.1).
    pub fn first_step(&self) -> usize {
        let (steps, strength) = (self.steps as f64, self.strength.unwrap_or(1.0));
        (steps - (steps * strength).min(steps)).max(0.0) as usize
    }
}

/// The defaults that a checkpoint's folder contains (`magcache.json`), or those that its family is published
/// with.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(try_from = "File")]
pub struct Defaults {
    /// The registered model, if the folder names it.
    pub model: Option<String>,
    /// Frames per second.
    pub fps: f64,
    /// A file in the folder: a first frame that the model can continue.
    pub image: Option<String>,
    /// A file in the folder: a recording that the model can make someone speak.
    pub audio: Option<String>,
    /// A request that the model can serve, except for the files.
    pub request: Request,
}

/// `magcache.json`: the options of a request, with its size as two keys.
#[derive(Deserialize)]
struct File {
    model: Option<String>,
    fps: f64,
    image: Option<String>,
    audio: Option<String>,
    width: usize,
    height: usize,
    #[serde(flatten)]
    options: Map<String, Value>,
}

impl TryFrom<File> for Defaults {
    type Error = String;

    fn try_from(file: File) -> Result<Self, String> {
        let File { model, fps, image, audio, width, height, options } = file;
        let given: SamplingOptions =
            serde_json::from_value(Value::Object(options)).map_err(|error| error.to_string())?;
        let texts = SamplingOptions {
            prompt: Some(String::new()),
            negative_prompt: Some(String::new()),
            seed: Some(SEED),
            size: Some([width, height]),
            ..SamplingOptions::default()
        };
        let options = given.over(texts);
        options.complete().map_err(|key| format!("missing field `{key}`"))?;
        Ok(Self { model, fps, image, audio, request: options.request(Request::default()) })
    }
}
