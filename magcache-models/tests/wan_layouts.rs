//! One random model in the layouts of diffusers and of the Wan team: identical bit for bit.
//!
//! `tests/reference/native_fixtures.py` made both, and verified each pair by running the Wan team's modules
//! against the libraries.

mod support;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::Tensor;
use magcache_core::{Expert, Pass, hint};
use magcache_models::{
    autoencoder::VideoVae,
    checkpoint::{CheckpointError, Weights},
    clip::{ClipVisionConfig, ClipVisionEncoder},
    image::Picture,
    pipeline::{LoadOptions, Offload, Pipeline, Request},
    sampler::{SamplerKind, Shift},
    text::T5Encoder,
    wan::{
        Layout, WanPipeline, WanSource, WanTask, WanTransformer,
        names::{self, VaeNames},
    },
};
use support::{
    DEVICE, KEEP, assert_same, bits, copy_folder, edit_json, folder, read_json, run, tiny_folder, waves,
};

fn fixtures() -> PathBuf {
    support::fixtures("native")
}

/// Both layouts of a model, with the tokenizer that works for all of them. The autoencoder of Wan2.1 and its
/// image encoder are stored with one model only.
fn model(name: &str) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    copy_folder(&fixtures().join(name), root.path());
    let (ours, native) = (root.path().join("diffusers"), root.path().join("native"));
    let shared = |from: &str, folder: &str, file: &str| {
        copy_folder(&fixtures().join(from).join("diffusers").join(folder), &ours.join(folder));
        fs::copy(fixtures().join(from).join("native").join(file), native.join(file)).unwrap();
    };
    if matches!(name, "i2v" | "flf2v" | "i2v-a14b") {
        shared("t2v-a14b", "vae", "Wan2.1_VAE.pth");
    }
    if name == "flf2v" {
        shared("i2v", "image_encoder", "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth");
    }
    copy_folder(&tiny_folder().join("tokenizer"), &ours.join("tokenizer"));
    copy_folder(&tiny_folder().join("tokenizer"), &native.join("google/umt5-xxl"));
    (root, ours, native)
}

fn open(root: &Path) -> WanSource {
    WanSource::open(folder(root)).unwrap()
}

fn refusal(root: &Path) -> String {
    hint::told(&WanSource::open(folder(root)).expect_err("is refused"))
}

/// The name of a vision tower's tensor without the prefix of transformers' files.
fn bare(name: &str) -> Option<String> {
    name.strip_prefix("vision_model.").map(str::to_owned)
}

fn transform(source: &WanSource, expert: Expert) -> Tensor {
    let config = source.transformer_config(expert).clone();
    let (channels, text_dim, image) = (config.in_channels, config.text_dim, config.image_dim);
    let image = image.map(|dim| match config.pos_embed_seq_len {
        Some(tokens) => waves(&[2, tokens / 2, dim], 0.7),
        None => waves(&[1, 5, dim], 0.7),
    });
    let weights = source.transformer(expert, &DEVICE, KEEP).unwrap();
    let model = WanTransformer::load(&weights, config).unwrap();
    assert!(weights.unused().is_empty(), "{:?}", weights.unused());
    // The published models have their image tokens after this many text tokens.
    let text = waves(&[1, if image.is_some() { 512 } else { 6 }, text_dim], 0.3);
    let text = match &image {
        Some(image) => model.image_text_context(&text, image),
        None => model.text_context(&text),
    };
    let timestep = Tensor::new(&[500f32], &DEVICE).unwrap();
    model.forward(&waves(&[1, channels, 2, 4, 6], 0.1), &timestep, &text.unwrap(), &mut Pass::off()).unwrap()
}

fn encode(source: &WanSource) -> Tensor {
    let weights = source.text_encoder(&DEVICE, KEEP).unwrap();
    let encoder = T5Encoder::load(&weights, source.text_encoder_config()).unwrap();
    assert!(weights.unused().is_empty(), "{:?}", weights.unused());
    encoder.forward(&[[3u32, 9, 27, 50, 1]], None).unwrap()
}

fn decode(source: &WanSource) -> Tensor {
    let weights = source.vae(&DEVICE, KEEP).unwrap();
    let vae = VideoVae::load(&weights, source.vae_config()).unwrap();
    assert!(weights.unused().is_empty(), "{:?}", weights.unused());
    vae.decode(&waves(&[1, source.vae_config().z_dim, 2, 3, 2], 0.9), None).unwrap()
}

fn see(source: &WanSource, weights: &Weights) -> Tensor {
    let config: ClipVisionConfig =
        serde_json::from_value(source.image_encoder_config().unwrap().clone()).unwrap();
    let encoder = ClipVisionEncoder::load(weights, &config).unwrap();
    encoder.forward(&waves(&[1, 3, config.image_size, config.image_size], 0.2)).unwrap()
}

/// Asserts that everything a pipeline reads is the same in both.
fn assert_one_model(name: &str, ours: &WanSource, native: &WanSource) {
    assert_eq!((ours.layout(), native.layout()), (Layout::Diffusers, Layout::Native));
    assert_eq!(native.task(), ours.task(), "{name}");
    assert_eq!(native.experts(), ours.experts(), "{name}");
    assert_eq!(native.boundary_ratio(), ours.boundary_ratio(), "{name}");
    assert_eq!(native.expand_timesteps(), ours.expand_timesteps(), "{name}");
    assert_eq!(native.text_encoder_config(), ours.text_encoder_config(), "{name}");
    for expert in [Expert(0), Expert(1)] {
        assert_eq!(native.transformer_config(expert), ours.transformer_config(expert), "{name}");
        let weights = |source: &WanSource| source.transformer(expert, &DEVICE, KEEP).unwrap();
        assert_same(name, &weights(ours), &weights(native));
        assert_eq!(bits(&transform(native, expert)), bits(&transform(ours, expert)), "{name}: {expert:?}");
    }
    let two = ours.experts() == 2;
    assert_eq!(bits(&transform(ours, Expert(0))) != bits(&transform(ours, Expert(1))), two, "{name}");
    assert_eq!(bits(&encode(native)), bits(&encode(ours)), "{name}");
    assert_eq!(bits(&decode(native)), bits(&decode(ours)), "{name}");
    let image = |source: &WanSource| source.image_encoder(&DEVICE, KEEP).unwrap();
    match (image(ours), image(native)) {
        (Some(ours_weights), Some(native_weights)) => {
            let (ours, native) = (see(ours, &ours_weights), see(native, &native_weights));
            assert_eq!(bits(&native), bits(&ours), "{name}");
            assert_same(name, &ours_weights.renamed(bare).unwrap(), &native_weights);
        }
        (None, None) => {}
        _ => panic!("{name}: one layout has an image encoder"),
    }
}

#[test]
fn both_layouts_of_a_model_are_the_same_in_every_bit() {
    for (name, task, shift) in [
        ("t2v-a14b", WanTask::T2V, 12.0),
        ("i2v-a14b", WanTask::I2V, 5.0),
        ("i2v", WanTask::I2V, 5.0),
        ("flf2v", WanTask::FLF2V, 16.0),
        ("ti2v", WanTask::TI2V, 5.0),
    ] {
        let (_root, ours, native) = model(name);
        let (ours, native) = (open(&ours), open(&native));
        assert_eq!(native.task(), task, "{name}");
        let scheduler = native.scheduler();
        assert_eq!(
            (scheduler.kind, scheduler.shift),
            (SamplerKind::WanUniPc, Shift::Static(shift)),
            "{name}"
        );
        assert_one_model(name, &ours, &native);
    }
}

/// Stores a PyTorch file's tensors as safetensors; the fixtures contain the reverse.
fn as_safetensors(path: &Path) {
    let (parent, file) = (folder(path.parent().unwrap()), path.file_name().unwrap());
    let weights = Weights::open_files(&parent, &[file.to_str().unwrap()], &DEVICE, KEEP).unwrap();
    let tensors: HashMap<String, Tensor> = weights
        .names()
        .map(|name| (name.to_owned(), weights.get(name, weights.shape(name).unwrap()).unwrap()))
        .collect();
    candle_core::safetensors::save(&tensors, path.with_extension("safetensors")).unwrap();
    fs::remove_file(path).unwrap();
}

#[test]
fn files_of_a_native_checkpoint_may_have_either_format() {
    let (_root, ours, native) = model("i2v");
    for file in fs::read_dir(&native).unwrap().map(|entry| entry.unwrap().path()) {
        if file.extension().is_some_and(|ending| ending == "pth") {
            as_safetensors(&file);
        }
    }
    assert_one_model("i2v", &open(&ours), &open(&native));

    // A transformer in PyTorch's format under the name of the other.
    let (_root, ours, native) = model("t2v-a14b");
    for expert in ["high_noise_model", "low_noise_model"] {
        let file = native.join(expert).join("diffusion_pytorch_model.safetensors");
        fs::remove_file(file).unwrap();
        copy_folder(&fixtures().join("t2v-a14b/pth").join(expert), &native.join(expert));
    }
    assert_one_model("t2v-a14b", &open(&ours), &open(&native));
}

#[test]
fn an_incomplete_native_checkpoint_names_what_it_lacks() {
    let (_root, _, native) = model("t2v-a14b");
    for (absent, said) in [
        ("low_noise_model/diffusion_pytorch_model.safetensors", "low_noise_model/diffusion_pytorch_model"),
        (
            "low_noise_model",
            "low_noise_model/config.json does not exist\nhint: expected the other transformer",
        ),
        ("Wan2.1_VAE.pth", "Wan2.1_VAE.pth does not exist"),
        ("models_t5_umt5-xxl-enc-bf16.pth", "models_t5_umt5-xxl-enc-bf16.pth does not exist"),
        ("google/umt5-xxl/tokenizer.json", "google/umt5-xxl/tokenizer.json does not exist"),
    ] {
        let root = tempfile::tempdir().unwrap();
        copy_folder(&native, root.path());
        let path = root.path().join(absent);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
        assert!(refusal(root.path()).contains(said), "{absent}: {}", refusal(root.path()));
    }
    let low = native.join("low_noise_model/config.json");
    for (key, value, said) in [
        ("ffn_dim", serde_json::json!(48), "ffn_dim is 48, the tensors make it 32"),
        ("dim", serde_json::json!(48), "dim is 48, the tensors make it 24"),
        ("model_type", serde_json::json!("i2v"), "model_type is i2v, that of high_noise_model is t2v"),
        ("model_type", serde_json::json!("vace"), "model_type is \"vace\", supported are"),
        ("vace_layers", serde_json::json!([0]), "unknown key vace_layers = [0]"),
        ("eps", serde_json::json!(1e-5), "differs from"),
    ] {
        let before = fs::read(&low).unwrap();
        edit_json(&low, |config| config[key] = value);
        assert!(refusal(&native).contains(said), "{key}: {}", refusal(&native));
        fs::write(&low, before).unwrap();
    }
    let empty = tempfile::tempdir().unwrap();
    let error = WanSource::open(folder(empty.path())).expect_err("is empty");
    assert!(matches!(error, CheckpointError::UnknownLayout { .. }));
    let message = hint::told(&error);
    assert!(message.contains("model_index.json") && message.contains("high_noise_model"), "{message}");
}

fn file(place: &str, name: &str) -> Weights {
    Weights::open_files(&folder(fixtures().join(place)), &[name], &DEVICE, KEEP).unwrap()
}

#[test]
fn autoencoders_of_both_versions_have_all_names() {
    let ours = "diffusion_pytorch_model.safetensors";
    let version = VaeNames::Wan21 { decoder_blocks: 3 };
    let native = file("vae/native", "Wan2.1_VAE.pth").mapped(|name| names::vae(version, name)).unwrap();
    assert_same("vae", &file("vae/diffusers", ours), &native);
    let native = file("ti2v/native", "Wan2.2_VAE.pth");
    let native = native.mapped(|name| names::vae(VaeNames::Wan22, name)).unwrap();
    assert_same("vae 2.2", &file("ti2v/diffusers/vae", ours), &native);
    let native = file("ti2v/native", "diffusion_pytorch_model.safetensors");
    assert_same(
        "ti2v",
        &file("ti2v/diffusers/transformer", ours),
        &native.renamed(names::to_diffusers).unwrap(),
    );
    for unknown in
        ["encoder.downsamples.0.residual.1.weight", "decoder.upsamples.3.residual.0.gamma", "encoder.x"]
    {
        assert_eq!(names::vae(version, unknown), None, "{unknown}");
    }
}

#[test]
fn native_names_are_those_of_the_converter_in_diffusers() {
    let pairs = read_json(&support::fixtures("wan_native_names.json"));
    let pairs = pairs.as_object().unwrap();
    for (native, diffusers) in pairs {
        let diffusers = diffusers.as_str().unwrap();
        assert_eq!(names::to_diffusers(native).as_deref(), Some(diffusers));
        assert_eq!(names::to_native(diffusers).as_ref(), Some(native));
    }
    assert_eq!(pairs.len(), 55);
}

#[test]
fn the_vision_tower_is_split_and_squeezed() {
    let native = file("i2v/native", "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth");
    let native = native.mapped(names::clip_vision).unwrap();
    let ours = file("i2v/diffusers/image_encoder", "model.safetensors");
    assert_same("clip", &ours.renamed(bare).unwrap(), &native);
}

/// The latents of a three-step run, with the same solver and schedule for either layout.
fn generate(root: &Path) -> Tensor {
    let options = LoadOptions { offload: Offload::Disk, ..LoadOptions::default() };
    let pipeline = WanPipeline::open(folder(root), options).unwrap();
    let picture = Picture::from_rgb8(3, 2, (0..18).map(|i| i * 13).collect()).unwrap();
    let [width, height] = pipeline.size_like(&picture, 48 * 32);
    let takes = |task| pipeline.source().task() == task;
    let first = !takes(WanTask::T2V);
    let picture = Arc::new(picture);
    let request = Request {
        steps: 3,
        frames: 5,
        size: [width, height],
        sampler: Some(SamplerKind::UniPc),
        flow_shift: Some(5.0),
        image: first.then(|| Arc::clone(&picture)),
        last_image: takes(WanTask::FLF2V).then_some(picture),
        ..pipeline.defaults().request.clone()
    };
    run(&pipeline, &request)
}

#[test]
fn whole_runs_are_the_same_in_every_bit() {
    for name in ["t2v-a14b", "i2v-a14b", "ti2v"] {
        let (_root, ours, native) = model(name);
        let (ours, native) = (generate(&ours), generate(&native));
        assert_eq!(bits(&native), bits(&ours), "{name}");
        assert!(bits(&ours).iter().all(|bits| f32::from_bits(*bits).is_finite()), "{name}");
    }
}

#[test]
fn the_shift_of_a_native_image_model_goes_by_the_size_of_the_video() {
    let (_root, _, native) = model("i2v");
    let pipeline = WanPipeline::open(folder(&native), LoadOptions::default()).unwrap();
    let shift = |width, height, flow_shift| {
        let request = Request { size: [width, height], flow_shift, ..pipeline.defaults().request.clone() };
        pipeline.trajectory(&request).unwrap().flow_shift
    };
    assert_eq!(shift(832, 480, None), Some(3.0));
    assert_eq!(shift(1280, 720, None), Some(5.0));
    assert_eq!(shift(832, 480, Some(7.0)), Some(7.0));
}
