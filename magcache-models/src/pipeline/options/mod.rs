//! The options of a request. This list is the only place that knows them; the table of a configuration, the
//! flags, their precedence, what makes two runs the same and what a calibration is valid for are derived from
//! it.

#[macro_use]
mod define;

use std::path::PathBuf;

use magcache_core::schemars;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::PoseVideo;
use crate::{image::Picture, sampler::SamplerKind, wav2vec2::Waveform};

// The numbers are the positions in the help, where size and frames come early.
options! {
    /// What is to be seen.
    #[arg(skip)]
    prompt: always String;

    /// What is not to be seen, where guidance is classifier-free.
    #[arg(skip)]
    negative_prompt: always String;

    /// Sampling steps.
    #[schemars(range(min = 1))]
    #[arg(long, help = "Denoise in this many steps")]
    steps: always usize, conditions ["steps"];

    /// The solver.
    #[arg(long, help = "Denoise with this solver", value_name = "unipc|euler|dpmpp|wan-unipc|wan-dpmpp", value_parser = typed::sampler)]
    #[arg(display_order = 12)]
    sampler: optional SamplerKind, conditions ["sampler"], otherwise "remove it: this model has a solver of its own";

    /// Shift of the noise levels: above 1, more steps at strong noise.
    #[schemars(extend("exclusiveMinimum" = 0))]
    #[arg(long, help = "Shift the noise levels: above 1, more steps are spent at strong noise", display_order = 11)]
    flow_shift: optional f64, conditions ["flow_shift"], otherwise "remove it: this model has noise levels of its own";

    /// Scale of classifier-free guidance; 1 or less turns it off, 0 in models that count from there
    /// (Z-Image). A guidance-distilled model gets it as an input.
    #[schemars(range(min = 0.0))]
    #[arg(long)]
    #[arg(help = "Guide by the prompt at this scale; 1 or less (Z-Image: 0) turns classifier-free guidance off")]
    guidance: always f64, conditions ["guidance"];

    /// Scale of classifier-free guidance in a guidance-distilled model.
    #[schemars(range(min = 0.0))]
    #[arg(long, value_name = "GUIDANCE")]
    #[arg(help = "Add classifier-free guidance of this scale to a guidance-distilled model")]
    true_cfg: optional f64, conditions ["true_cfg"], otherwise "`guidance = N` is its scale of classifier-free guidance";

    /// The same as `guidance` for the second expert of a model that has two.
    #[schemars(range(min = 0.0))]
    #[arg(long, help = "Guide the second expert at this scale, in a model that has two", value_name = "GUIDANCE")]
    guidance_2: optional f64, conditions ["guidance_2"], otherwise "it is for models with two experts; remove it";

    /// The most that guidance may lengthen a whole prediction, as a multiple of its norm without guidance; 0
    /// is no limit.
    #[schemars(range(min = 0.0))]
    #[arg(long, value_name = "RATIO")]
    #[arg(help = "Keep a guided prediction to this multiple of its norm without guidance")]
    cfg_normalization: optional f64, conditions ["cfg_normalization"], otherwise "this model has no such limit; remove it";

    /// The part of the way from noise to image after which there is no guidance.
    #[schemars(range(min = 0.0, max = 1.0))]
    #[arg(long, value_name = "PART", help = "End guidance behind this part of the way from noise to image")]
    cfg_truncation: optional f64, conditions ["cfg_truncation"], otherwise "this model is guided to the end; remove it";

    /// The part of the noise below which the second expert runs.
    #[schemars(range(min = 0.0, max = 1.0))]
    #[arg(long, help = "Run the second expert below this part of the noise, 0 to 1", value_name = "RATIO")]
    boundary: optional f64, conditions ["boundary_ratio"], otherwise "it is for models with two experts; remove it";

    /// Of the initial noise: the same number gives the same result.
    #[arg(skip)]
    seed: always u64;

    /// Width and height in pixels; of a given image where there is one.
    #[schemars(inner(range(min = 1)))]
    #[arg(long, help = "Make it this wide and this high, in pixels", value_name = "WxH", value_parser = typed::size, display_order = 3)]
    size: always [usize; 2], conditions ["width", "height"];

    /// Frames; 1 is an image. Of each clip, in models that make several.
    #[schemars(range(min = 1))]
    #[arg(long, alias = "infer-frames", display_order = 4)]
    #[arg(help = "Make this many frames, in each clip of models that make several; 1 is an image")]
    frames: always usize, conditions ["frames"];

    /// The first frame of a video, or the image to begin from.
    #[arg(long, help_heading = IMAGES, value_name = "FILE")]
    #[arg(help = "Begin with this image: the first frame of a video, or what an image is made from")]
    image: file Picture, otherwise "remove the image";

    /// A second picture, for models that look at several.
    #[arg(long, help = "Look at this picture too, in models that take several", help_heading = IMAGES)]
    #[arg(value_name = "FILE")]
    image_2: file Picture, otherwise "this model takes one picture at most; remove it";

    /// A third one.
    #[arg(long, help = "And at this one", help_heading = IMAGES, value_name = "FILE")]
    image_3: file Picture, otherwise "this model takes fewer pictures; remove it";

    /// Image to image: the part of the steps that runs on `image`.
    #[schemars(range(max = 1.0), extend("exclusiveMinimum" = 0))]
    #[arg(long, help_heading = IMAGES)]
    #[arg(help = "Image to image: run only this part of the steps on --image, above 0 and at most 1")]
    strength: optional f64, otherwise "it is for models of images; remove it";

    /// The last frame of a video, for models that take one.
    #[arg(long, help = "End a video with this image", help_heading = IMAGES, value_name = "FILE")]
    last_image: file Picture, otherwise "remove the last image";

    /// The recording of a voice, for models that make someone speak.
    #[arg(long, help = "Make the image speak with the voice of this recording", help_heading = SPEECH)]
    #[arg(value_name = "FILE")]
    audio: file Waveform, otherwise "remove the recording";

    /// A video whose movements the speaker repeats.
    #[arg(long, help = "Repeat the movements of this video", help_heading = SPEECH, value_name = "FILE")]
    pose: file dyn PoseVideo, otherwise "remove the video of movements";

    /// The most clips that are made, one after the other; otherwise as many as the recording lasts.
    #[schemars(range(min = 1))]
    #[arg(long, help = "Make at most this many clips, of as many as the recording lasts", help_heading = SPEECH)]
    clips: optional usize, otherwise "this model makes one clip; remove it";

    /// Whether the video begins with the given image itself.
    #[arg(long, help = "Begin the video with the given image itself", help_heading = SPEECH)]
    #[arg(num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    start_from_ref: optional bool, otherwise "remove it";
}

/// A heading of the help.
#[cfg(feature = "clap")]
const IMAGES: &str = "Given images";

/// Another one.
#[cfg(feature = "clap")]
const SPEECH: &str = "Speech to video";

impl SamplingOptions {
    /// The options that a calibration depends on, under the names that it records. Pictures are not included.
    pub fn conditions(&self) -> Map<String, Value> {
        let mut out = Map::new();
        let Ok(Value::Object(set)) = serde_json::to_value(self) else { return out };
        for option in SamplingOption::ALL {
            let names = option.conditions().iter().map(|name| (*name).to_owned());
            match set.get(option.key()) {
                None | Some(Value::Null) => {}
                Some(Value::Array(parts)) => out.extend(names.zip(parts.iter().cloned())),
                Some(whole) => out.extend(names.map(|name| (name, whole.clone()))),
            }
        }
        out
    }
}

/// Parsing of values as typed.
#[cfg(feature = "clap")]
mod typed {
    use magcache_core::error::nearest;

    use crate::sampler::SamplerKind;

    pub(super) fn size(text: &str) -> Result<[usize; 2], String> {
        let sides = text.split_once(['x', 'X']).and_then(|(w, h)| Some([w.parse().ok()?, h.parse().ok()?]));
        sides.ok_or_else(|| format!("{text:?} is not WIDTHxHEIGHT, such as 832x480"))
    }

    pub(super) fn sampler(text: &str) -> Result<SamplerKind, String> {
        text.parse().map_err(|_| {
            let names = SamplerKind::ALL.map(SamplerKind::name);
            let hint = match nearest(text, names) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("one of {}", names.join(", ")),
            };
            format!("unknown sampler {text:?}: {hint}")
        })
    }
}

#[cfg(test)]
mod tests {
    use magcache_core::hint::Hint as _;

    use super::*;
    use crate::{
        checkpoint::{EmbeddedFile, Folder},
        pipeline::{self, Defaults, LoadOptions, Pipeline},
    };

    fn embedded() -> Vec<Box<dyn Pipeline>> {
        let folders = pipeline::embedded().into_iter().map(|model| (model.folder)());
        folders.map(|folder| pipeline::open(folder, LoadOptions::default()).expect("opens")).collect()
    }

    /// A model with limits of guidance, which none of the embedded ones has.
    static GUIDED: [EmbeddedFile; 5] = [
        ("model_index.json", b"{\"_class_name\": \"ZImagePipeline\"}"),
        (
            "scheduler/scheduler_config.json",
            b"{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\", \"shift\": 6}",
        ),
        ("text_encoder/config.json", b"{}"),
        ("transformer/config.json", b"{\"in_channels\": 16}"),
        ("vae/config.json", include_bytes!("../../../tiny/tiny-flux/vae/config.json")),
    ];

    /// A model that looks at several pictures, of which none is in the program: its configurations.
    static EDIT: [EmbeddedFile; 4] = [
        ("model_index.json", br#"{"_class_name": "QwenImageEditPlusPipeline"}"#),
        ("transformer/config.json", b"{}"),
        (
            "text_encoder/config.json",
            br#"{"model_type": "qwen2_5_vl", "vocab_size": 9, "hidden_size": 3584, "intermediate_size": 8,
                "num_hidden_layers": 1, "num_attention_heads": 28, "num_key_value_heads": 4}"#,
        ),
        ("vae/config.json", b"{}"),
    ];

    #[test]
    fn every_option_is_taken_by_a_pipeline() {
        let open = |name, files| {
            pipeline::open(Folder::embedded(name, files), LoadOptions::default()).expect("opens")
        };
        let all = embedded().into_iter().chain([open("guided", &GUIDED), open("edit", &EDIT)]);
        let taken: Vec<SamplingOption> = all.flat_map(|pipeline| pipeline.takes()).collect();
        for option in SamplingOption::ALL {
            assert!(option.is_always_set() != taken.contains(option), "nothing takes {option:?}");
        }
    }

    #[test]
    fn what_a_pipeline_does_not_take_is_refused_whatever_its_value() {
        let request = |of: &dyn Pipeline| of.defaults().request.clone();
        for pipeline in embedded() {
            let base = Request { true_cfg: Some(f64::NAN), ..request(&*pipeline) };
            let error = pipeline.check(&base).expect_err("is not a number");
            let (text, model) = (error.to_string(), &pipeline.meta().name);
            if pipeline.takes().contains(&SamplingOption::true_cfg) {
                assert_eq!(text, "true_cfg is NaN, it must be a number of at least 0");
            } else {
                assert_eq!(text, format!("true_cfg is NaN, but {model} does not take it"));
                assert_eq!(
                    error.hint().as_deref(),
                    Some("`guidance = N` is its scale of classifier-free guidance")
                );
            }
        }
    }

    #[test]
    fn a_folder_says_what_a_request_does_not() {
        let text = "{\"steps\": 7, \"width\": 64, \"height\": 32, \"frames\": 5, \"fps\": 8, \"guidance\": 2.5, \
                    \"true_cfg\": 1.5, \"image\": \"a.png\"}";
        let Defaults { request, fps, image, model, .. } = serde_json::from_str(text).expect("is complete");
        let expected = Request {
            steps: 7,
            size: [64, 32],
            frames: 5,
            guidance: 2.5,
            true_cfg: Some(1.5),
            ..Request::default()
        };
        assert_eq!((request, fps, image.as_deref(), model), (expected, 8.0, Some("a.png"), None));
        let error = |text: &str| serde_json::from_str::<Defaults>(text).expect_err(text).to_string();
        assert!(error(&text.replace("steps", "stps")).contains("unknown field `stps`"));
        assert!(error(&text.replace("\"steps\": 7,", "")).contains("missing field `steps`"));
    }
}
