//! Z-Image and Qwen-Image end to end: whole runs that diffusers made (`tests/reference/image_families.py`),
//! and single files in the layouts that people have, which must give the bits of the folder.

mod support;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
    sync::Arc,
};

use candle_core::Tensor;
use magcache_core::{Branch, hint};
use magcache_models::{
    checkpoint::Weights,
    pipeline::{self, Generation, GivenFiles, LoadOptions, Pipeline, Request},
    qwen_image::QwenImageConfig,
    recognise::{self, Role},
    text::{Qwen3Config, Qwen25VlConfig, open_language_model},
};
use serde::Deserialize;
use serde_json::{Value, json};
use support::{DEVICE, KEEP, bits, copy_folder, fixtures, folder, read_json, run, worst, write_hollow};

const FAMILIES: [&str; 2] = ["z_image", "qwen_image"];

/// Of the pixels, only every so many are recorded.
const STRIDE: usize = 7;

/// How far a latent may be off behind all steps.
const TOLERANCE: f32 = 1e-4;

type Shapes = BTreeMap<String, Vec<usize>>;

/// A model whose weights follow from their names, and what was asked of it.
#[derive(Deserialize)]
struct Recorded {
    class: String,
    configs: BTreeMap<String, Value>,
    tensors: BTreeMap<String, Shapes>,
    request: Wanted,
}

#[derive(Deserialize)]
struct Wanted {
    prompt: String,
    negative_prompt: String,
    steps: usize,
    size: [usize; 2],
    guidance: f64,
    cfg_normalization: Option<f64>,
}

fn recorded(family: &str) -> Recorded {
    Recorded::deserialize(&read_json(&fixtures("image_families").join(family).join("model.json"))).unwrap()
}

/// The values of a tensor, by the formula of the recording script.
fn weight(name: &str, shape: &[usize]) -> Tensor {
    let seed =
        name.bytes().fold(0x811c_9dc5_u32, |seed, byte| (seed ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let noise = |i: u64| {
        let mut x = ((u64::from(seed) << 32) + i).wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 40) as f64 / f64::from(1 << 23) - 1.0
    };
    let row: usize = shape[1..].iter().product();
    let is_gain = name.contains("gamma") || (name.contains("norm") && name.ends_with("weight"));
    let value = |i: usize| {
        let noise = noise(i as u64);
        let value = if shape.len() > 1 && !name.contains("gamma") {
            noise * (1.7 / (row as f64).sqrt())
        } else {
            noise * 0.1 + if is_gain { 1.0 } else { 0.0 }
        };
        value as f32
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
    Tensor::from_vec(values, shape, &DEVICE).unwrap()
}

fn weights(shapes: &Shapes) -> HashMap<String, Tensor> {
    shapes.iter().map(|(name, shape)| (name.clone(), weight(name, shape))).collect()
}

fn save(tensors: &HashMap<String, Tensor>, path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    candle_core::safetensors::save(tensors, path).unwrap();
}

/// The folder of a model as diffusers writes it.
fn model(recorded: &Recorded) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let write = |file: String, value: &Value| {
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, value.to_string()).unwrap();
    };
    for (part, config) in &recorded.configs {
        let file = if part == "scheduler" { "scheduler_config.json" } else { "config.json" };
        write(format!("{part}/{file}"), config);
    }
    write("model_index.json".to_owned(), &json!({"_class_name": recorded.class}));
    copy_folder(&fixtures("flux_text/qwen3"), &root.path().join("tokenizer"));
    for (part, shapes) in &recorded.tensors {
        let file = if part == "text_encoder" { "model" } else { "diffusion_pytorch_model" };
        save(&weights(shapes), &root.path().join(part).join(format!("{file}.safetensors")));
    }
    root
}

fn open(root: &Path, files: GivenFiles) -> Box<dyn Pipeline> {
    let options = LoadOptions { files, ..LoadOptions::default() };
    pipeline::open(folder(root), options).unwrap_or_else(|error| panic!("{}", hint::told(&error)))
}

fn request(pipeline: &dyn Pipeline, wanted: &Wanted) -> Request {
    Request {
        prompt: wanted.prompt.clone(),
        negative_prompt: wanted.negative_prompt.clone(),
        steps: wanted.steps,
        size: wanted.size,
        guidance: wanted.guidance,
        cfg_normalization: wanted.cfg_normalization,
        ..pipeline.defaults().request.clone()
    }
}

#[test]
fn every_step_and_the_picture_are_those_of_diffusers() {
    for family in FAMILIES {
        let recorded = recorded(family);
        let root = model(&recorded);
        let golden = fixtures("image_families").join(family).join("golden.safetensors");
        let golden = candle_core::safetensors::load(golden, &DEVICE).unwrap();
        let pipeline = open(root.path(), GivenFiles::default());
        let request = request(&*pipeline, &recorded.request);
        pipeline.check(&request).unwrap();
        let denoiser = pipeline.denoiser(&request, &|_| {}, &mut Vec::new()).unwrap();
        let (sampler, trajectory) =
            (pipeline.sampler(&request).unwrap(), pipeline.trajectory(&request).unwrap());
        assert_eq!(trajectory.branches, [Branch::Cond, Branch::Uncond]);
        let noise = &golden["noise"];
        assert_eq!(noise.dims(), pipeline.noise(&request).unwrap().dims());
        let mut generation = Generation::new(denoiser, trajectory, sampler, noise, &Arc::default()).unwrap();
        for step in 0..recorded.request.steps {
            generation.step(&|| false).unwrap();
            let off = worst(generation.latents(), &golden["latents"].get(step).unwrap());
            assert!(off < TOLERANCE, "{family}, step {step}: {off}");
        }
        let mut pixels = Vec::new();
        let mut sink = |frame: &Tensor| {
            pixels.push(frame.flatten_all().unwrap());
            Ok(())
        };
        pipeline.decode(&request, generation.latents(), &|_| {}, &mut sink).unwrap();
        let [pixels] = pixels.as_slice() else { panic!("{} pictures", pixels.len()) };
        let every: Vec<u32> = (0..pixels.elem_count() as u32).step_by(STRIDE).collect();
        let some = pixels.index_select(&Tensor::new(every, &DEVICE).unwrap(), 0).unwrap();
        let off = worst(&some.clamp(-1f32, 1f32).unwrap(), &golden["pixels"]);
        assert!(off < TOLERANCE, "{family}, pixels: {off}");
    }
}

/// The names of llama.cpp for those of the hub, as its converter has them.
const LLAMA: [(&str, &str); 14] = [
    ("model.embed_tokens.", "token_embd."),
    ("model.norm.", "output_norm."),
    ("model.layers.", "blk."),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// A text encoder under the names of the hub's files, which newer writers nest.
fn of_hub(tensors: &HashMap<String, Tensor>) -> HashMap<String, Tensor> {
    let own =
        |name: &String| name.replace("model.language_model.", "model.").replace("model.visual.", "visual.");
    tensors.iter().map(|(name, tensor)| (own(name), tensor.clone())).collect()
}

fn of_llama(tensors: &HashMap<String, Tensor>) -> HashMap<String, Tensor> {
    let own = |name: &String| LLAMA.iter().fold(name.clone(), |name, (hub, llama)| name.replace(hub, llama));
    let language = tensors.iter().filter(|(name, _)| !name.starts_with("visual."));
    language.map(|(name, tensor)| (own(name), tensor.clone())).collect()
}

#[test]
fn text_encoders_in_single_files_give_the_bits_of_the_folder() {
    for family in FAMILIES {
        let recorded = recorded(family);
        let root = model(&recorded);
        let files = tempfile::tempdir().unwrap();
        let hub = of_hub(&weights(&recorded.tensors["text_encoder"]));
        let latents = |files: GivenFiles| {
            let pipeline = open(root.path(), files);
            run(&*pipeline, &request(&*pipeline, &recorded.request))
        };
        let want = latents(GivenFiles::default());
        for (name, tensors) in [("hub", hub.clone()), ("llama", of_llama(&hub))] {
            let file = files.path().join(format!("{name}.safetensors"));
            save(&tensors, &file);
            // The folder's is not read.
            let given = GivenFiles { text_encoders: vec![file], ..GivenFiles::default() };
            fs::rename(root.path().join("text_encoder"), root.path().join("elsewhere")).unwrap();
            assert_eq!(bits(&latents(given)), bits(&want), "{family}, {name}");
            fs::rename(root.path().join("elsewhere"), root.path().join("text_encoder")).unwrap();
        }
    }
}

/// Qwen-Image's transformer and autoencoder: the latter in the layout that Wan's has.
#[test]
fn a_transformer_and_an_autoencoder_in_single_files_give_the_bits_of_the_folder() {
    let recorded = recorded("qwen_image");
    let root = model(&recorded);
    let vae = root.path().join("vae");
    fs::remove_dir_all(&vae).unwrap();
    copy_folder(&fixtures("native/vae/diffusers"), &vae);
    let picture = |files: GivenFiles| {
        let pipeline = open(root.path(), files);
        let request = request(&*pipeline, &recorded.request);
        let latents = run(&*pipeline, &request);
        let mut frames = Vec::new();
        let mut sink = |frame: &Tensor| {
            frames.push(frame.clone());
            Ok(())
        };
        pipeline.decode(&request, &latents, &|_| {}, &mut sink).unwrap();
        bits(&frames[0])
    };
    let want = picture(GivenFiles::default());
    let file = root.path().join("qwen_image_bf16.safetensors");
    let prefixed = weights(&recorded.tensors["transformer"]).into_iter();
    save(&prefixed.map(|(name, x)| (format!("model.diffusion_model.{name}"), x)).collect(), &file);
    for part in ["transformer", "vae"] {
        fs::remove_dir_all(root.path().join(part)).unwrap();
    }
    let vae = fixtures("native/vae/native").join("Wan2.1_VAE.pth");
    let given = GivenFiles { transformer: Some(file), vae: Some(vae), ..GivenFiles::default() };
    assert_eq!(picture(given), want);
}

#[test]
fn a_file_of_another_model_is_refused_by_what_it_is() {
    let other = fixtures("golden/text_encoders/umt5_wan/model.safetensors");
    for (family, expected) in FAMILIES.into_iter().zip(["Qwen3", "Qwen2.5-VL"]) {
        let root = model(&recorded(family));
        let files = GivenFiles { text_encoders: vec![other.clone()], ..GivenFiles::default() };
        let options = LoadOptions { files, ..LoadOptions::default() };
        let told = hint::told(&pipeline::open(folder(root.path()), options).map(|_| ()).unwrap_err());
        assert!(told.contains("UMT5") && told.contains(expected), "{told}");
    }
}

/// The tensors of published files whose names are those of the folder: blocks are listed once.
#[derive(Deserialize)]
struct Published {
    blocks: BTreeMap<String, usize>,
    stored_tensors: usize,
    config: Value,
    shapes: Shapes,
}

/// A file of its zeros, and every name and shape in it.
fn hollow(root: &Path, published: &Published) -> Shapes {
    let each = |(name, shape): (&String, &Vec<usize>)| {
        let count = name.split_once(".*.").map_or(1, |(list, _)| published.blocks[list]);
        (0..count).map(|i| (name.replace('*', &i.to_string()), shape.clone())).collect::<Vec<_>>()
    };
    let all: Shapes = published.shapes.iter().flat_map(each).collect();
    write_hollow(&root.join("published.safetensors"), &all.clone().into_iter().collect::<Vec<_>>());
    all
}

/// All of a file is there under the names of diffusers, in its shapes.
fn assert_all(weights: &Weights, all: &Shapes) {
    assert_eq!(weights.names().count(), all.len());
    for (name, shape) in all {
        assert_eq!(weights.shape(name), Some(shape.as_slice()), "{name}");
    }
}

/// The numbers of a configuration that both have.
fn assert_numbers(published: &Value, ours: &[(&str, usize)]) {
    for (key, value) in ours {
        assert_eq!(published[key], json!(value), "{key}");
    }
}

#[test]
fn sizes_of_published_files_follow_from_their_tensors() {
    let mut published: BTreeMap<String, Published> =
        Deserialize::deserialize(&read_json(&fixtures("qwen_published_names.json"))).unwrap();
    let at = |name: &str| {
        let root = tempfile::tempdir().unwrap();
        let all = hollow(root.path(), &published[name]);
        assert_eq!(all.len(), published[name].stored_tensors);
        (folder(root.path()), root, all, &published[name].config)
    };
    let file = "published.safetensors";

    let (files, _root, all, config) = at("qwen_image");
    let weights = recognise::open(&files, file, Role::Transformer, &DEVICE, KEEP).unwrap();
    let own = QwenImageConfig::of_weights(&weights, false).unwrap();
    assert_eq!(own, QwenImageConfig::from_json(&config.to_string()).unwrap());
    assert_all(&weights, &all);

    let (files, _root, mut all, config) = at("qwen25vl");
    assert!(all.remove("lm_head.weight").is_some(), "encoders have no use for it");
    let weights = open_language_model(&files, file, &DEVICE, KEEP).unwrap();
    let own = Qwen25VlConfig::of_weights(&weights).unwrap();
    assert_eq!(own, Qwen25VlConfig::default());
    let vision = [("depth", own.vision.depth), ("intermediate_size", own.vision.intermediate_size)];
    assert_numbers(&config["vision"], &vision);
    assert_numbers(config, &[("num_hidden_layers", own.num_hidden_layers), ("vocab_size", own.vocab_size)]);
    assert_all(&weights, &all);

    let (files, _root, all, config) = at("qwen3");
    let weights = open_language_model(&files, file, &DEVICE, KEEP).unwrap();
    let own = Qwen3Config::of(&weights).unwrap();
    let heads = [("head_dim", own.head_dim), ("num_attention_heads", own.num_attention_heads)];
    assert_numbers(config, &heads);
    let rest = [("num_key_value_heads", own.num_key_value_heads), ("hidden_size", own.hidden_size)];
    assert_numbers(config, &rest);
    assert_numbers(config, &[("num_hidden_layers", own.num_hidden_layers), ("vocab_size", own.vocab_size)]);
    assert_all(&weights, &all);

    // Blocks are counted, not assumed.
    let shorter = published.get_mut("qwen25vl").unwrap();
    shorter.blocks = BTreeMap::from([("model.layers".to_owned(), 3), ("visual.blocks".to_owned(), 9)]);
    let root = tempfile::tempdir().unwrap();
    hollow(root.path(), shorter);
    let weights = open_language_model(&folder(root.path()), file, &DEVICE, KEEP).unwrap();
    let own = Qwen25VlConfig::of_weights(&weights).unwrap();
    assert_eq!((own.num_hidden_layers, own.vision.depth), (3, 9));
}
