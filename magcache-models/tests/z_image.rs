//! Z-Image: single files against the folder, row by row, requests and what is refused. Its arithmetic is
//! compared with diffusers by `magcache verify`.

mod support;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

use candle_core::Tensor;
use magcache_core::{Branch, HookRegistry, Pass, Step, hint, schedule};
use magcache_models::{
    checkpoint::Weights,
    image::Picture,
    pipeline::{self, GivenFiles, LoadOptions, Pipeline, Request},
    sampler::{self, SamplerKind, Schedule, SchedulerConfig},
    z_image::{ZImageConfig, ZImageTransformer, meta, native},
};
use serde::Deserialize;
use serde_json::json;
use support::{
    DEVICE, KEEP, assert_same, bits, copy_folder, edit_json, fixtures, folder, read_json, run, waves, worst,
    write_hollow,
};

/// The tensors of a published file: blocks are listed once, with `*` for their number.
#[derive(Deserialize)]
struct Published {
    blocks: BTreeMap<String, usize>,
    stored_tensors: usize,
    tensors: BTreeMap<String, Native>,
}

#[derive(Clone, Deserialize)]
struct Native {
    shape: Vec<usize>,
    /// Name of a diffusers tensor, its first row in that tensor, number of rows.
    holds: Vec<(String, usize, usize)>,
}

fn published() -> Published {
    Published::deserialize(&read_json(&fixtures("z_image_native_names.json"))).unwrap()
}

impl Published {
    /// Every tensor of a file with so many blocks in each list.
    fn all(&self, blocks: impl Fn(&str) -> usize) -> Vec<(String, Native)> {
        let each = |(name, native): (&String, &Native)| {
            let count = name.split_once(".*.").map_or(1, |(list, _)| blocks(list));
            let one = |i: usize| {
                let of = |name: &str| name.replace('*', &i.to_string());
                let holds = native.holds.iter().map(|(ours, row, rows)| (of(ours), *row, *rows)).collect();
                (of(name), Native { holds, ..native.clone() })
            };
            (0..count).map(one).collect::<Vec<_>>()
        };
        self.tensors.iter().flat_map(each).collect()
    }
}

/// The text encoder of another family.
const UMT5: &str = "golden/text_encoders/umt5_wan/model.safetensors";

const BLOCKS: [(&str, usize); 3] = [("layers", 3), ("noise_refiner", 1), ("context_refiner", 1)];

fn few(list: &str) -> usize {
    BLOCKS.iter().find(|(name, _)| *name == list).unwrap().1
}

fn config() -> serde_json::Value {
    json!({
        "_class_name": "ZImageTransformer2DModel", "dim": 16, "n_layers": 3, "n_refiner_layers": 1, "n_heads": 2,
        "n_kv_heads": 2, "in_channels": 4, "cap_feat_dim": 8, "axes_dims": [4, 2, 2], "axes_lens": [1536, 512, 512]
    })
}

/// A shape of the published model in the small one of [`config`].
fn small(shape: &[usize]) -> Vec<usize> {
    let one = |n: &usize| match *n {
        3840 => 16,
        10240 => 42,
        2560 => 8,
        128 => 8,
        64 => 16,
        256 if shape != [1024, 256] => 16,
        n if n % 3840 == 0 => n / 3840 * 16,
        n => n,
    };
    shape.iter().map(one).collect()
}

/// The tensors of the small model under the names of diffusers.
fn tensors() -> HashMap<String, Tensor> {
    let mut all = HashMap::new();
    for (_, Native { shape, holds }) in published().all(few) {
        let parts = holds.len();
        for (name, ..) in holds {
            let mut shape = small(&shape);
            shape[0] /= parts;
            let step = 0.37 + 0.01 * name.bytes().map(usize::from).sum::<usize>() as f32 % 1.0;
            let wave = waves(&shape, step);
            let norm = name.contains("norm") || name == "cap_embedder.0.weight";
            let wave = if norm { wave.affine(0.1, 1.0) } else { wave.affine(0.2, 0.0) };
            all.insert(name, wave.unwrap());
        }
    }
    all
}

fn write_native(path: &Path, prefix: &str) {
    let ours = tensors();
    let join = |(name, Native { holds, .. }): (String, Native)| {
        let parts: Vec<_> = holds.iter().map(|(name, ..)| &ours[name]).collect();
        (format!("{prefix}{name}"), Tensor::cat(&parts, 0).unwrap())
    };
    let mut native: HashMap<String, Tensor> = published().all(few).into_iter().map(join).collect();
    native.insert(format!("{prefix}norm_final.weight"), waves(&[16], 0.1));
    candle_core::safetensors::save(&native, path).unwrap();
}

/// A whole small model of random numbers: its transformer, with the text encoder, the tokenizer and the
/// autoencoder of other small models.
fn model(shift: f64) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (from, to) in [
        ("flux_pipelines/flux2/text_encoder", "text_encoder"),
        ("flux_text/qwen3", "tokenizer"),
        ("flux_pipelines/flux1/vae", "vae"),
    ] {
        copy_folder(&fixtures(from), &root.path().join(to));
    }
    let write = |file: &str, value: serde_json::Value| {
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, value.to_string()).unwrap();
    };
    write("model_index.json", json!({"_class_name": "ZImagePipeline"}));
    let scheduler = json!({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": shift});
    write("scheduler/scheduler_config.json", scheduler);
    write("transformer/config.json", config());
    let file = root.path().join("transformer/diffusion_pytorch_model.safetensors");
    candle_core::safetensors::save(&tensors(), file).unwrap();
    root
}

fn open(root: &Path) -> Box<dyn Pipeline> {
    pipeline::open(folder(root), LoadOptions::default()).unwrap()
}

fn request(pipeline: &dyn Pipeline) -> Request {
    Request { steps: 3, size: [96, 64], prompt: "a red circle".into(), ..pipeline.defaults().request.clone() }
}

#[test]
fn a_published_file_has_the_tensors_of_the_folder() {
    let published = published();
    let all = published.all(|list| published.blocks[list]);
    assert_eq!(all.len(), published.stored_tensors);
    let root = tempfile::tempdir().unwrap();
    let shapes: Vec<_> = all.iter().map(|(name, native)| (name.clone(), native.shape.clone())).collect();
    for prefix in ["", "model.diffusion_model."] {
        let named = shapes.iter().map(|(name, shape)| (format!("{prefix}{name}"), shape.clone()));
        write_hollow(&root.path().join("z.safetensors"), &named.collect::<Vec<_>>());
        let (config, weights) = native::open(&folder(root.path()), "z.safetensors", &DEVICE, KEEP).unwrap();
        assert_eq!(config, ZImageConfig { axes_lens: [1536, 512, 512], ..ZImageConfig::default() });
        assert_eq!((weights.names().count(), weights.parameters()), (521, 6_154_908_736));
        for (_, Native { shape, holds }) in &all {
            for (name, _, rows) in holds {
                let ours = if holds.len() > 1 { [&[*rows], &shape[1..]].concat() } else { shape.clone() };
                assert_eq!(weights.shape(name), Some(ours.as_slice()), "{name}");
            }
        }
    }
}

#[test]
fn single_files_are_the_folder_bit_for_bit() {
    let root = model(3.0);
    let ours = Weights::open(&folder(root.path().join("transformer")), &DEVICE, KEEP).unwrap();
    let files = tempfile::tempdir().unwrap();
    write_native(&files.path().join("z_image_turbo.safetensors"), "model.diffusion_model.");
    let open_native = || native::open(&folder(files.path()), "z_image_turbo.safetensors", &DEVICE, KEEP);
    let (config, native) = open_native().unwrap();
    assert_same("rows", &ours, &native);
    assert_eq!(config.axes_dims, [4, 2, 2]);

    let dense = open(root.path());
    let request = request(&*dense);
    let want = run(&*dense, &request);
    // Nothing but files: the text encoder by the hub's names, and the tokenizer's folder.
    let encoder = files.path().join("qwen_3.safetensors");
    fs::copy(root.path().join("text_encoder/model.safetensors"), &encoder).unwrap();
    let vae = files.path().join("vae");
    copy_folder(&root.path().join("vae"), &vae);
    let given = GivenFiles {
        transformer: Some(files.path().join("z_image_turbo.safetensors")),
        text_encoders: vec![encoder],
        tokenizers: vec![root.path().join("tokenizer")],
        ..GivenFiles::default()
    };
    let options = |files| LoadOptions { files, ..LoadOptions::default() };
    let alone = pipeline::open(folder(files.path()), options(given.clone())).unwrap();
    assert_eq!(alone.meta().name, "z-image-turbo", "its file says so");
    assert_eq!(bits(&run(&*alone, &request)), bits(&want));
    let own = |files| pipeline::open(folder(root.path()), options(files)).map(|_| ());
    let other = GivenFiles { text_encoders: vec![fixtures(UMT5)], ..GivenFiles::default() };
    let told = hint::told(&own(other).expect_err("is of another model"));
    assert!(told.contains("UMT5") && told.contains("Qwen3"), "{told}");
    let files = GivenFiles { tokenizers: Vec::new(), ..given };
    let lacking =
        pipeline::open(folder(files.transformer.as_ref().unwrap().parent().unwrap()), options(files));
    let error = lacking.unwrap().denoiser(&request, &|_| {}, &mut Vec::new()).err().expect("no tokenizer");
    assert!(hint::told(&error).contains("--tokenizer"), "{}", hint::told(&error));
}

#[test]
fn turbo_and_base_run_with_their_own_schedules() {
    for (shift, name, steps, guidance) in [(3.0, "z-image-turbo", 8, 0.0), (6.0, "z-image", 50, 4.0)] {
        let root = model(shift);
        let pipeline = open(root.path());
        let (own, meta) = (&pipeline.defaults().request, pipeline.meta());
        assert_eq!((&*meta.name, own.steps, own.guidance), (name, steps, guidance));
        assert!(meta.profiles.is_empty(), "other sizes have no published profile");
        // A step that skips all layers still refines the image.
        assert_eq!(schedule::share(&(0..3), meta), 3.0 / 4.0);
        let request = request(&*pipeline);
        let trajectory = pipeline.trajectory(&request).unwrap();
        assert_eq!(trajectory.branches.len(), if guidance > 0.0 { 2 } else { 1 });
        let latents = run(&*pipeline, &request);
        assert_eq!(latents.dims(), [1, 4, 4, 6]);
        let mut frames = Vec::new();
        let mut sink = |frame: &Tensor| {
            frames.push(frame.dims().to_vec());
            Ok(())
        };
        pipeline.decode(&request, &latents, &|_| {}, &mut sink).unwrap();
        assert_eq!(frames, [[3, 1, 64, 96]]);
        let other =
            run(&*pipeline, &Request { prompt: "a blue square and a circle".into(), ..request.clone() });
        assert!(worst(&latents, &other) > 1e-3, "the prompt matters");
    }
    let config = SchedulerConfig::new(SamplerKind::Euler, 3.0);
    let eight = Schedule::new(&config, sampler::Request::linear_f32(&config, 8, config.mu(4096)));
    let sigmas: Vec<f32> = eight.unwrap().sigmas.iter().map(|s| (s * 1e5).round() / 1e5).collect();
    assert_eq!(sigmas, [1.0, 0.95455, 0.9, 0.83333, 0.75, 0.64286, 0.5, 0.3, 0.0]);
}

#[test]
fn guidance_ends_where_it_is_told_to() {
    let root = model(6.0);
    let pipeline = open(root.path());
    let whole = Request { steps: 6, ..request(&*pipeline) };
    let passes = |request: &Request| pipeline.trajectory(request).unwrap().passes();
    let cut = Request { cfg_truncation: Some(0.3), ..whole.clone() };
    let free = Request { guidance: 0.0, ..whole.clone() };
    assert_eq!((passes(&whole), passes(&free)), (12, 6));
    assert!((7..12).contains(&passes(&cut)), "{}", passes(&cut));
    let limited = Request { cfg_normalization: Some(0.5), ..whole.clone() };
    let results = [&whole, &cut, &free, &limited].map(|request| run(&*pipeline, request));
    for (i, one) in results.iter().enumerate() {
        for other in &results[..i] {
            assert!(worst(one, other) > 1e-4);
        }
    }
}

#[test]
fn a_picture_is_where_a_run_begins() {
    let root = model(3.0);
    let pipeline = open(root.path());
    let pixels: Vec<u8> = (0..96 * 64 * 3).map(|i| (i * 7 % 256) as u8).collect();
    let picture = Picture::from_rgb8(96, 64, pixels).unwrap().into();
    let image = Request { image: Some(picture), steps: 5, ..request(&*pipeline) };
    assert_eq!(pipeline.resolved(&image).strength, Some(0.6));
    assert_eq!(pipeline.trajectory(&image).unwrap().first, 2);
    let [weak, strong] = [0.3, 0.9].map(|strength| {
        let request = Request { strength: Some(strength), ..image.clone() };
        run(&*pipeline, &request)
    });
    assert!(worst(&weak, &strong) > 1e-3);
    let start = Request { strength: Some(1.0), ..image.clone() };
    let text = Request { image: None, ..image };
    assert!(worst(&run(&*pipeline, &start), &run(&*pipeline, &text)) < 1e-6, "all of it is noise");
}

#[test]
fn what_a_request_cannot_be_is_refused_by_name() {
    let roots = [model(3.0), model(6.0)];
    let [turbo, base] = [open(roots[0].path()), open(roots[1].path())];
    let told = |pipeline: &dyn Pipeline, request: Request| hint::told(&pipeline.check(&request).unwrap_err());
    let ask = |pipeline: &dyn Pipeline, change: &dyn Fn(&mut Request)| {
        let mut request = request(pipeline);
        change(&mut request);
        told(pipeline, request)
    };
    for (message, parts) in [
        (ask(&*turbo, &|r| r.guidance = 4.0), ["guidance is 4", "distilled"]),
        (ask(&*turbo, &|r| r.cfg_truncation = Some(0.5)), ["cfg_truncation is 0.5", "does not take"]),
        (ask(&*base, &|r| r.cfg_truncation = Some(f64::NAN)), ["cfg_truncation is NaN", "at least 0"]),
        (ask(&*base, &|r| r.guidance = -1.0), ["guidance is -1", "at least 0"]),
        (ask(&*base, &|r| r.frames = 5), ["5 frames", "one image"]),
        (ask(&*base, &|r| r.size = [90, 64]), ["width 90", "32"]),
        (ask(&*base, &|r| r.size = [32 * 513, 64]), ["16416x64", "16384x16384"]),
        (ask(&*base, &|r| r.strength = Some(0.5)), ["strength is 0.5", "no image"]),
        (ask(&*base, &|r| r.steps = 0), ["steps", "1 to 1000"]),
    ] {
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
    let mut notes = Vec::new();
    let long = Request { prompt: "a red circle ".repeat(300), ..request(&*turbo) };
    turbo.denoiser(&long, &|_| {}, &mut notes).unwrap();
    assert!(notes.iter().any(|note| note.contains("longer than 512 tokens")), "{notes:?}");
}

#[test]
fn faults_of_a_folder_or_a_file_are_named() {
    let broken = |change: &dyn Fn(&Path)| {
        let root = model(3.0);
        change(root.path());
        let opened = pipeline::open(folder(root.path()), LoadOptions::default());
        let error = opened.and_then(|pipeline| {
            let request = request(&*pipeline);
            pipeline.denoiser(&request, &|_| {}, &mut Vec::new()).map(|_| ())
        });
        hint::told(&error.unwrap_err())
    };
    let remove = |part: &'static str| move |root: &Path| fs::remove_dir_all(root.join(part)).unwrap();
    let edit = |key: &'static str, value: serde_json::Value| {
        move |root: &Path| {
            edit_json(&root.join("transformer/config.json"), |config| config[key] = value.clone());
        }
    };
    for (message, part) in [
        (broken(&remove("transformer")), "z_image_turbo_bf16.safetensors"),
        (broken(&remove("text_encoder")), "qwen_3_4b.safetensors"),
        (broken(&remove("tokenizer")), "--tokenizer"),
        (broken(&edit("siglip_feat_dim", json!(1152))), "Omni"),
        (broken(&edit("in_channels", json!(16))), "in_channels is 16"),
        (broken(&edit("n_layers", json!(4))), "layers.3"),
        (broken(&edit("cap_feat_dim", json!(9))), "8 channels, the transformer reads 9"),
    ] {
        assert!(message.contains(part), "{message}");
    }
    let root = tempfile::tempdir().unwrap();
    let file: PathBuf = root.path().join("z.safetensors");
    let without = |name: &str, more: Option<&str>| {
        write_native(&file, "");
        let mut all = candle_core::safetensors::load(&file, &DEVICE).unwrap();
        all.remove(name);
        more.map(|name| all.insert(name.to_owned(), waves(&[4], 0.3)));
        candle_core::safetensors::save(&all, &file).unwrap();
        let opened = native::open(&folder(root.path()), "z.safetensors", &DEVICE, KEEP);
        hint::told(&opened.unwrap_err())
    };
    let missing = without("layers.1.attention.qkv.weight", None);
    assert!(missing.contains("layers.1.attention.qkv.weight") && missing.contains("missing"), "{missing}");
    let surplus = without("", Some("siglip_embedder.0.weight"));
    assert!(surplus.contains("siglip_embedder.0.weight") && surplus.contains("more"), "{surplus}");
}

#[test]
fn a_prompt_is_for_one_model_and_one_size() {
    let root = model(6.0);
    let weights = Weights::open(&folder(root.path().join("transformer")), &DEVICE, KEEP).unwrap();
    let config = ZImageConfig::from_json(&config().to_string()).unwrap();
    let network = ZImageTransformer::load(&weights, config).unwrap();
    let prompt = network.prompt(&waves(&[1, 5, 8], 0.3), [2, 3]).unwrap();
    let (latents, time) = (waves(&[1, 4, 4, 6], 0.7), network.time(0.25).unwrap());
    let forward = |pass: &mut Pass<'_>| network.forward(&latents, &time, &prompt, pass);
    // What a session without hooks runs is the bare loop.
    let bare = forward(&mut Pass::off()).unwrap();
    let registry = HookRegistry::builder(3).build();
    let mut session = registry.session();
    let hooked = forward(&mut session.pass(&Step::plain(0, 1), Branch::Cond)).unwrap();
    assert_eq!(bits(&hooked), bits(&bare));

    let told = |error: candle_core::Error| error.to_string();
    let wide = network.forward(&waves(&[1, 4, 4, 8], 0.7), &time, &prompt, &mut Pass::off());
    assert!(told(wide.unwrap_err()).contains("4 by 8"));
    let other = ZImageTransformer::load(&weights, network.config().clone()).unwrap();
    let foreign = other.forward(&latents, &time, &prompt, &mut Pass::off());
    assert!(told(foreign.unwrap_err()).contains("another model"));
    assert!(told(network.prompt(&waves(&[1, 5, 9], 0.3), [2, 3]).unwrap_err()).contains("9 channels"));
    assert!(told(network.prompt(&waves(&[1, 1600, 8], 0.3), [2, 3]).unwrap_err()).contains("1600"));
    assert_eq!(meta::TURBO.always_run, 2);
}
