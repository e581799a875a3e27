//! Whole runs of a pipeline: prompts, pictures, noise levels, every step, and the pixels.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use magcache_core::HookRegistry;
use magcache_models::{
    checkpoint::{Folder, WeightDtype},
    flux::{Flux2TextEncoder, FluxTextEncoder},
    image::Picture,
    pipeline::{self, Generation, LoadOptions, Pipeline, Request},
};
use serde::Deserialize;
use serde_json::Value;

use super::{case::Case, report::CaseReport};
use crate::console::bad_input;

/// Of images and embeddings one value in so many is recorded.
const STRIDE: usize = 29;

const RUN: &str = "run";

#[derive(Deserialize)]
struct Recorded {
    /// Folders of the model that lie elsewhere, from the case's own.
    parts: BTreeMap<String, String>,
    /// Tokens of a prompt that the recording was made with, by tokenizer.
    max_lengths: BTreeMap<String, usize>,
    request: Wanted,
    /// Passes of the network, all steps and branches together.
    passes: usize,
    tolerance: f64,
    /// Whether the network looks at the picture.
    looked_at: Option<bool>,
    /// Whether the image's size was left to the picture.
    #[serde(default)]
    like: bool,
    text_tokens: Option<usize>,
    #[serde(default)]
    first: usize,
    /// Of the steps that ran.
    timesteps: Option<Vec<f64>>,
}

#[derive(Deserialize)]
struct Wanted {
    prompt: String,
    negative_prompt: String,
    steps: usize,
    width: usize,
    height: usize,
    frames: Option<usize>,
    guidance: f64,
    guidance_2: Option<f64>,
    true_cfg: Option<f64>,
    strength: Option<f64>,
    /// Files of the case.
    #[serde(default)]
    pictures: Vec<String>,
    /// Width and height of a picture that a formula makes.
    picture: Option<[usize; 2]>,
}

impl Wanted {
    fn request(&self, case: &Case, defaults: Request) -> Result<Request> {
        let mut pictures = Vec::new();
        for file in &self.pictures {
            let picture = Picture::decode(&case.folder.describe_file(file), &case.folder.read(file)?)?;
            pictures.push(Arc::new(picture));
        }
        if let Some(size) = self.picture {
            pictures.push(Arc::new(picture(size)?));
        }
        let mut pictures = pictures.into_iter();
        Ok(Request {
            prompt: self.prompt.clone(),
            negative_prompt: self.negative_prompt.clone(),
            steps: self.steps,
            size: [self.width, self.height],
            frames: self.frames.unwrap_or(defaults.frames),
            guidance: self.guidance,
            guidance_2: self.guidance_2,
            true_cfg: self.true_cfg,
            strength: self.strength,
            image: pictures.next(),
            last_image: pictures.next(),
            ..defaults
        })
    }
}

/// As the scripts that recorded make it.
fn picture([width, height]: [usize; 2]) -> Result<Picture> {
    let value = |x: usize, y: usize, c: usize| ((x * (c + 1) + y * (5 - 2 * c) + x * y / 64) % 256) as u8;
    let rgb = (0..height).flat_map(|y| (0..width).flat_map(move |x| [0, 1, 2].map(|c| value(x, y, c))));
    Ok(Picture::from_rgb8(width, height, rgb.collect())?)
}

pub(super) fn check(case: &Case) -> Result<CaseReport> {
    let mut report = CaseReport::new(case.label());
    let recorded: Recorded = case.read()?;
    let whole = assembled(case, &recorded)?;
    let folder = Folder::open(whole.path())?.computing_with(case.folder.ops());
    prompts(case, &recorded, &folder, &mut report)?;
    let pipeline = pipeline::open(folder, LoadOptions { ops: case.folder.ops(), ..LoadOptions::default() })?;
    let request = recorded.request.request(case, pipeline.defaults().request.clone())?;
    pipeline.check(&request)?;
    sizes(case, &recorded, pipeline.as_ref(), &request, &mut report)?;
    run(case, &recorded, pipeline.as_ref(), &request, &mut report)?;
    report.finish()
}

/// The case as one folder of diffusers. Its own files come last: one has another `config.json` beside shared weights.
fn assembled(case: &Case, recorded: &Recorded) -> Result<tempfile::TempDir> {
    let whole = tempfile::tempdir()?;
    for (part, from) in &recorded.parts {
        copy(&case.path().join(from), &whole.path().join(part))?;
    }
    copy(case.path(), whole.path())?;
    for (tokenizer, length) in &recorded.max_lengths {
        let file = whole.path().join(tokenizer).join("tokenizer_config.json");
        let mut config: Value = serde_json::from_str(&fs::read_to_string(&file)?)
            .map_err(|e| bad_input(format!("{}: {e}", file.display())))?;
        config["model_max_length"] = (*length).into();
        fs::write(&file, config.to_string())?;
    }
    Ok(whole)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let place = || format!("cannot copy {}", from.display());
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(place)? {
        let path = entry.with_context(place)?.path();
        let to = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy(&path, &to)?;
        } else {
            fs::copy(&path, to).with_context(place)?;
        }
    }
    Ok(())
}

/// The prompts as the network is given them, of which it shows little.
fn prompts(case: &Case, recorded: &Recorded, folder: &Folder, report: &mut CaseReport) -> Result<()> {
    let texts = [("prompt", &recorded.request.prompt), ("negative", &recorded.request.negative_prompt)];
    let there: Vec<_> = texts.into_iter().filter(|(what, _)| case.has(&format!("{what}.embeds"))).collect();
    let (Some(rows), false) = (recorded.text_tokens, there.is_empty()) else { return Ok(()) };
    let mut embeds: Vec<(String, Tensor)> = Vec::new();
    if folder.sub("text_encoder_2").exists("config.json") {
        let encoder = FluxTextEncoder::load(folder, &Device::Cpu, WeightDtype::Auto)?;
        let encoder = encoder.with_max_sequence_length(rows)?;
        for (what, text) in there {
            let got = encoder.encode(&[text])?;
            embeds.push((format!("{what}.embeds"), sampled(&got.prompt_embeds)?));
            embeds.push((format!("{what}.pooled"), got.pooled_prompt_embeds));
        }
    } else {
        let encoder = Flux2TextEncoder::load(folder, &Device::Cpu, WeightDtype::Auto)?;
        for (what, text) in there {
            let got = encoder.encode_tokens(&[encoder.tokenize(text)?])?;
            report.numbers(what, "tokens", &[got.dim(1)? as f64], &[rows as f64], 0.0);
            embeds.push((format!("{what}.embeds"), sampled(&got)?));
        }
    }
    for (key, got) in embeds {
        let (what, output) = key.split_once('.').unwrap_or((&key, ""));
        report.tensors(what, output, &got, case.tensor(&key)?, 2e-5)?;
    }
    Ok(())
}

/// One value in [`STRIDE`].
fn sampled(tensor: &Tensor) -> Result<Tensor> {
    let flat = tensor.flatten_all()?;
    let places: Vec<u32> = (0..flat.dim(0)? as u32).step_by(STRIDE).collect();
    Ok(flat.index_select(&Tensor::new(places, flat.device())?, 0)?)
}

/// What is said of the run before it is made.
fn sizes(
    case: &Case,
    recorded: &Recorded,
    pipeline: &dyn Pipeline,
    request: &Request,
    report: &mut CaseReport,
) -> Result<()> {
    let noise = case.tensor("noise")?;
    let mut equal = |output: &str, got: &[usize], want: &[usize]| {
        let numbers = |list: &[usize]| list.iter().map(|n| *n as f64).collect::<Vec<_>>();
        report.numbers(RUN, output, &numbers(got), &numbers(want), 0.0);
    };
    equal("axes of the noise", pipeline.noise(request)?.dims(), noise.dims());
    let sizes = pipeline.sizes(request)?;
    equal("latents in all", &[sizes.latents], &[noise.elem_count()]);
    let trajectory = pipeline.trajectory(request)?;
    equal("first step", &[trajectory.first, trajectory.len()], &[recorded.first, recorded.request.steps]);
    if let (true, Some(image)) = (recorded.like, &request.image) {
        equal("size", &pipeline.size_like(image, 1024 * 1024), &request.size);
    }
    if let Some(text) = recorded.text_tokens {
        // Pictures that the network looks at lie after the latents' tokens.
        let alone = pipeline.sizes(&Request { image: None, ..request.clone() })?;
        equal("tokens", &[alone.tokens + alone.text_tokens], &[noise.dim(1)? + text]);
        if let Some(looked_at) = recorded.looked_at {
            equal(
                "a picture among the tokens",
                &[usize::from(sizes.tokens > alone.tokens)],
                &[usize::from(looked_at)],
            );
        }
    }
    if let Some(want) = &recorded.timesteps {
        let f32s = |all: &[f64]| all.iter().map(|t| f64::from(*t as f32)).collect::<Vec<_>>();
        let ours = trajectory.timesteps.get(trajectory.first..).unwrap_or_default();
        report.numbers(RUN, "timesteps", &f32s(ours), &f32s(want), 0.0);
    }
    Ok(())
}

fn run(
    case: &Case,
    recorded: &Recorded,
    pipeline: &dyn Pipeline,
    request: &Request,
    report: &mut CaseReport,
) -> Result<()> {
    let mut notes = Vec::new();
    let denoiser = pipeline.denoiser(request, &|_| {}, &mut notes)?;
    report.count(RUN, "notes", notes.len(), 1, notes.first().cloned());
    let (trajectory, sampler) = (pipeline.trajectory(request)?, pipeline.sampler(request)?);
    let registry = Arc::<HookRegistry>::default();
    let mut generation = Generation::new(denoiser, trajectory, sampler, case.tensor("noise")?, &registry)?;
    let mut after = Vec::new();
    while !generation.is_done() {
        generation.step(&|| false)?;
        after.push(generation.latents().clone());
    }
    let passes = generation.times().len() as f64;
    report.numbers(RUN, "passes", &[passes], &[recorded.passes as f64], 0.0);
    // Those after the last step, or after every one.
    let want = case.tensor("latents")?;
    let got = match generation.latents() {
        last if last.dims() == want.dims() => last.clone(),
        _ => Tensor::cat(&after, 0)?,
    };
    report.tensors(RUN, "latents", &got, want, recorded.tolerance)?;
    if case.has("image") {
        let mut frames = Vec::new();
        let mut sink = |frame: &Tensor| -> pipeline::Result<()> {
            frames.push(frame.clone());
            Ok(())
        };
        pipeline.decode(request, generation.latents(), &|_| {}, &mut sink)?;
        let image = Tensor::cat(&frames, 1)?.clamp(-1f32, 1f32)?;
        let (axes, want) = (image.dims(), [3, 1, request.size[1], request.size[0]]);
        report.count(RUN, "axes of the image", usize::from(axes != want), 1, Some(format!("{axes:?}")));
        report.tensors(RUN, "image", &sampled(&image)?, case.tensor("image")?, recorded.tolerance)?;
    }
    Ok(())
}
