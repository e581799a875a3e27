//! Whole runs of every kind of Wan model against the pipelines of diffusers (`tests/reference/wan_pipelines.py`).

use std::{fs, path::Path, sync::Arc};

use candle_core::{Device, Tensor};
use magcache_core::HookRegistry;
use magcache_models::{
    checkpoint::Folder,
    image::Picture,
    pipeline::{Generation, LoadOptions, Offload, Pipeline, Request},
    wan::{WanPipeline, WanTask},
};
use serde::Deserialize;

const TOLERANCE: f32 = 1e-4;

#[derive(Deserialize)]
struct Case {
    width: usize,
    height: usize,
    frames: usize,
    steps: usize,
    guidance: Vec<f64>,
    prompt: String,
    negative_prompt: String,
    pictures: Vec<String>,
    max_length: usize,
    weights: Option<String>,
    vae: Option<String>,
    image_encoder: Option<String>,
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let path = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &path);
        } else {
            fs::copy(entry.path(), path).unwrap();
        }
    }
}

/// A case's folder with the parts that it shares with others.
fn assemble(name: &str, root: &Path) -> Case {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (fixtures, tiny) = (manifest.join("../tests/fixtures"), manifest.join("tiny/wan2.1-t2v-tiny"));
    copy(&fixtures.join("pipelines").join(name), root);
    let case: Case = serde_json::from_slice(&fs::read(root.join("case.json")).unwrap()).unwrap();
    for part in
        case.weights.iter().flat_map(|other| ["transformer", "transformer_2"].map(|part| (other, part)))
    {
        copy(&fixtures.join("pipelines").join(part.0).join(part.1), &root.join(part.1));
    }
    for part in ["text_encoder", "tokenizer"] {
        copy(&tiny.join(part), &root.join(part));
    }
    let file = root.join("tokenizer/tokenizer_config.json");
    let text = fs::read_to_string(&file).unwrap();
    let length = format!("\"model_max_length\": {}", case.max_length);
    fs::write(file, text.replace("\"model_max_length\": 16", &length)).unwrap();
    match &case.vae {
        None => copy(&tiny.join("vae"), &root.join("vae")),
        Some(golden) => copy(&fixtures.join(golden), &root.join("vae")),
    }
    if let Some(golden) = &case.image_encoder {
        copy(&fixtures.join(golden), &root.join("image_encoder"));
    }
    case
}

fn request(case: &Case, root: &Path, defaults: Request) -> Request {
    let picture =
        |i: usize| case.pictures.get(i).map(|file| Arc::new(Picture::read(root.join(file)).unwrap()));
    Request {
        prompt: case.prompt.clone(),
        negative_prompt: case.negative_prompt.clone(),
        steps: case.steps,
        size: [case.width, case.height],
        frames: case.frames,
        guidance: case.guidance[0],
        guidance_2: case.guidance.get(1).copied(),
        image: picture(0),
        last_image: picture(1),
        ..defaults
    }
}

struct Done {
    latents: Tensor,
    passes: usize,
    task: WanTask,
}

fn run(case: &Case, root: &Path, offload: Offload) -> Done {
    let options = LoadOptions { offload, ..LoadOptions::default() };
    let pipeline = WanPipeline::open(Folder::open(root).unwrap(), options).unwrap();
    let request = request(case, root, pipeline.defaults().request.clone());
    pipeline.check(&request).unwrap();
    let expected = candle_core::safetensors::load(root.join("expected.safetensors"), &Device::Cpu).unwrap();
    assert_eq!(pipeline.noise(&request).unwrap().dims(), expected["noise"].dims());
    let trajectory = pipeline.trajectory(&request).unwrap();
    let denoiser = pipeline.denoiser(&request, &|_| {}, &mut Vec::new()).unwrap();
    let (sampler, registry) = (pipeline.sampler(&request).unwrap(), Arc::<HookRegistry>::default());
    let noise = expected["noise"].clone();
    let mut generation = Generation::new(denoiser, trajectory, sampler, &noise, &registry).unwrap();
    generation.run(&|| false, &mut |_| {}).unwrap();
    let passes = generation.times().len();
    Done { latents: generation.latents().clone(), passes, task: pipeline.source().task() }
}

fn worst(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

#[track_caller]
fn check(name: &str, task: WanTask, passes: usize) {
    let root = tempfile::tempdir().unwrap();
    let case = assemble(name, root.path());
    let done = run(&case, root.path(), Offload::None);
    assert_eq!((done.task, done.passes), (task, passes), "{name}");
    let expected =
        candle_core::safetensors::load(root.path().join("expected.safetensors"), &Device::Cpu).unwrap();
    let error = worst(&done.latents, &expected["latents"]);
    assert!(error <= TOLERANCE, "{name}: latents are {error} off");
    let offloaded = run(&case, root.path(), Offload::Disk);
    assert_eq!(worst(&done.latents, &offloaded.latents), 0.0, "{name}: offload changes no bit");
}

#[test]
fn a_pair_from_text_of_which_the_second_expert_is_unguided() {
    // Four of six steps at high noise with two branches; the others have one.
    check("t2v_pair", WanTask::T2V, 10);
}

#[test]
fn a_pair_that_continues_an_image() {
    check("i2v_pair", WanTask::I2V, 12);
}

#[test]
fn a_pair_between_two_images() {
    check("i2v_pair_last", WanTask::I2V, 12);
}

#[test]
fn one_network_that_continues_an_image_which_clip_sees() {
    check("i2v_clip", WanTask::I2V, 12);
}

#[test]
fn one_network_between_two_images_which_clip_sees() {
    check("flf2v_clip", WanTask::FLF2V, 12);
}

#[test]
fn text_to_video_with_the_residual_autoencoder() {
    check("ti2v_text", WanTask::TI2V, 12);
}

#[test]
fn a_clean_first_frame_with_timesteps_of_its_own() {
    check("ti2v_image", WanTask::TI2V, 12);
}
