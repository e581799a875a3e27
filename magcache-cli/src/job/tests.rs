//! Every option of a request is present everywhere that is derived from the list of options.

use std::path::Path;

use clap::Parser;
use magcache_models::{
    checkpoint::Folder,
    pipeline::{SamplingOption, SamplingOptions},
};
use serde_json::Value;

use super::{Config, Job, LoadOptions, flag};
use crate::{
    args::{Args, Command, Run},
    calibration::Conditions,
    console::Console,
    resume::identity,
};

/// Values to try for an option, as typed. The first accepted one is used.
const TYPED: [&str; 9] = ["0.5", "3", "1", "true", "32x32", "euler", PICTURE, RECORDING, VIDEO];
const PICTURE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../magcache-models/tiny/wan2.2-i2v-tiny/example.png");
const RECORDING: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../magcache-models/tiny/wan2.2-s2v-tiny/example.wav");
const VIDEO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/videos/reordered.mp4");

/// Options that are not flags of every command: `run` has them, other commands take lists.
const OWN_FLAGS: [SamplingOption; 3] =
    [SamplingOption::prompt, SamplingOption::negative_prompt, SamplingOption::seed];

/// The configurations of models with options that none of the embedded ones has: limits of guidance, and
/// several pictures.
const OTHERS: [&[(&str, &str)]; 2] = [
    &[
        ("model_index.json", r#"{"_class_name": "ZImagePipeline"}"#),
        (
            "scheduler/scheduler_config.json",
            r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 6}"#,
        ),
        ("text_encoder/config.json", "{}"),
        ("transformer/config.json", r#"{"in_channels": 16}"#),
        ("vae/config.json", include_str!("../../../magcache-models/tiny/tiny-flux/vae/config.json")),
        NO_WEIGHTS,
    ],
    &[
        ("model_index.json", r#"{"_class_name": "QwenImageEditPlusPipeline"}"#),
        ("transformer/config.json", "{}"),
        (
            "text_encoder/config.json",
            r#"{"model_type": "qwen2_5_vl", "vocab_size": 9, "hidden_size": 3584, "intermediate_size": 8,
                "num_hidden_layers": 1, "num_attention_heads": 28, "num_key_value_heads": 4}"#,
        ),
        ("vae/config.json", "{}"),
        NO_WEIGHTS,
    ],
];

/// A file without tensors: it is part of what a run is.
const NO_WEIGHTS: (&str, &str) = ("transformer/diffusion_pytorch_model.safetensors", "\u{2}\0\0\0\0\0\0\0{}");

/// The folder of a model of these files.
fn written(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

fn value(options: &SamplingOptions, option: SamplingOption) -> Value {
    serde_json::to_value(options).unwrap()[option.key()].clone()
}

/// The command with one option set, and its job; `None` if the value is not accepted.
fn planned(model: &str, option: SamplingOption, typed: &str, image: bool) -> Option<(Run, Job)> {
    let flag = flag(option);
    let mut words = vec!["magcache", "run", "--model", model, &flag, typed];
    if image && option != SamplingOption::image {
        words.extend(["--image", PICTURE]);
    }
    let Command::Run(run) = Args::try_parse_from(words).ok()?.command else { return None };
    let job =
        Job::new(Config::of(&run.sampling, &Console::new(false, true)).ok()?, LoadOptions::default()).ok()?;
    Some((run, job))
}

#[test]
fn an_option_is_in_every_place_that_follows_from_it() {
    let others = OTHERS.map(written);
    let embedded = magcache_models::pipeline::embedded();
    let models: Vec<(String, Folder)> = embedded
        .iter()
        .map(|model| (model.name.to_owned(), (model.folder)()))
        .chain(others.iter().map(|dir| (dir.path().display().to_string(), Folder::open(dir.path()).unwrap())))
        .collect();
    for option in SamplingOption::ALL.iter().copied().filter(|option| !OWN_FLAGS.contains(option)) {
        let key = option.key();
        let found = models.iter().find_map(|(name, folder)| {
            let options = LoadOptions::default();
            let takes = magcache_models::pipeline::open(folder.clone(), options).unwrap().takes();
            let image = takes.contains(&SamplingOption::image);
            TYPED.iter().find_map(|typed| planned(name, option, typed, image))
        });
        let (run, job) = found.unwrap_or_else(|| panic!("no model takes {key}, or it is no flag"));

        let set = value(&run.sampling.options, option);
        assert_eq!(value(&job.config.sampling, option), set, "{key}: what is written");
        let is_file = job.config.sampling.files().iter().any(|(file, _)| *file == option);
        if !is_file {
            assert_eq!(value(&job.request.options(), option), set, "{key}: what is asked of the model");
        }
        assert!(
            identity(&job, &run.placement, run.tile_vae).unwrap().contains_key(&format!("sampling.{key}")),
            "{key}: the identity"
        );
        let facts = Conditions::facts(&job, None).unwrap();
        for name in option.conditions() {
            assert!(facts.contains_key(*name), "{key}: the conditions");
        }

        // Flags override the file; without a flag the file decides.
        let file = toml::to_string(&job.config).unwrap();
        let read: Config = toml::from_str(&file).unwrap();
        assert_eq!(value(&read.sampling, option), set, "{key}: what is read");
        let none = SamplingOptions::default();
        assert_eq!(value(&none.clone().over(read.sampling.clone()), option), set, "{key}: the file");
        assert_eq!(value(&read.sampling.over(none), option), set, "{key}: the flag");
    }
    assert!(Path::new(PICTURE).exists());
}
