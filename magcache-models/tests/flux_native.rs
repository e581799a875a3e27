//! Native single files of the Flux transformers against diffusers' converters, whose results on the published
//! files are recorded in `tests/fixtures/flux_native_names.json`, row by row.

mod support;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use candle_core::{DType, Tensor};
use magcache_core::Pass;
use magcache_models::{
    checkpoint::{CheckpointError, Folder, Weights},
    flux::{
        Flux2Config, Flux2Transformer, FluxConfig, FluxTransformer, flux1, flux2,
        native::{self, Generation},
        positions,
    },
    pipeline::{self, LoadOptions, Request},
};
use serde::Deserialize;
use serde_json::{Value, json};
use support::{
    DEVICE, KEEP, assert_same, bits, copy_folder, edit_json, fixtures, folder, read_json, run, tiny, values,
    waves, write_hollow,
};

/// A published file: blocks are listed once, with `*` for their number.
#[derive(Deserialize)]
struct Published {
    config: Value,
    blocks: HashMap<String, usize>,
    tensors: BTreeMap<String, Native>,
}

#[derive(Clone, Deserialize)]
struct Native {
    shape: Vec<usize>,
    /// Name of a diffusers tensor, its first row here, number of rows.
    holds: Vec<(String, usize, usize)>,
}

fn published(model: &str) -> Published {
    let all = read_json(&fixtures("flux_native_names.json"));
    Published::deserialize(&all[model]).unwrap()
}

impl Published {
    /// Every tensor of a file with `blocks(list)` blocks in each list.
    fn tensors(&self, blocks: impl Fn(&str) -> usize) -> Vec<(String, Native)> {
        let mut tensors = Vec::new();
        for (name, native) in &self.tensors {
            let count = name.split_once(".*.").map_or(1, |(list, _)| blocks(list));
            for i in 0..count {
                let of_block = |name: &str| name.replace('*', &i.to_string());
                let holds = native.holds.iter().map(|(ours, row, rows)| (of_block(ours), *row, *rows));
                tensors.push((of_block(name), Native { holds: holds.collect(), ..native.clone() }));
            }
        }
        tensors
    }

    fn all(&self) -> Vec<(String, Native)> {
        self.tensors(|list| self.blocks[list])
    }
}

/// Names and shapes of diffusers tensors.
type Shapes = BTreeMap<String, Vec<usize>>;

fn of_diffusers(tensors: &[(String, Native)]) -> Shapes {
    let mut shapes = Shapes::new();
    for (_, Native { shape, holds }) in tensors {
        for (name, _, rows) in holds {
            let ours = shapes.entry(name.clone()).or_insert_with(|| [&[0], &shape[1..]].concat());
            ours[0] += rows;
        }
    }
    shapes
}

/// A configuration of either generation, read as a folder's `config.json` is.
fn config(of: Generation, text: &str) -> Value {
    match of {
        Generation::Flux1 => serde_json::to_value(FluxConfig::from_json(text).unwrap()),
        Generation::Flux2 => serde_json::to_value(Flux2Config::from_json(text).unwrap()),
    }
    .unwrap()
}

/// The configuration and the tensors in a file of either generation.
fn open(of: Generation, folder: &Folder, file: &str) -> Result<(Value, Weights), CheckpointError> {
    Ok(match of {
        Generation::Flux1 => {
            let (config, weights) = flux1::native::open(folder, file, &DEVICE, KEEP)?;
            (serde_json::to_value(config).unwrap(), weights)
        }
        Generation::Flux2 => {
            let (config, weights) = flux2::native::open(folder, file, &DEVICE, KEEP)?;
            (serde_json::to_value(config).unwrap(), weights)
        }
    })
}

/// The velocity that a network of either generation predicts.
fn predict(of: Generation, weights: &Weights, config: &Value) -> Result<Tensor, CheckpointError> {
    let text = config.to_string();
    let size = |key: &str| config[key].as_u64().unwrap() as usize;
    let (x, t) = (waves(&[1, 12, size("in_channels")], 0.1), Tensor::new(&[0.7f32], &DEVICE).unwrap());
    let words = waves(&[1, 7, size("joint_attention_dim")], 0.3);
    let guidance = Tensor::new(&[3.5f32], &DEVICE).unwrap();
    let guidance = config["guidance_embeds"].as_bool().unwrap().then_some(&guidance);
    let (grid, mut off) = ([3, 4], Pass::off());
    let predicted = match of {
        Generation::Flux1 => {
            let model = FluxTransformer::load(weights, FluxConfig::from_json(&text).unwrap())?;
            let pooled = waves(&[1, size("pooled_projection_dim")], 0.5);
            let context = model.text_context(&words, &pooled).unwrap();
            let positions = model.positions(&[[0.0; 3]; 7], &positions::image_ids(grid, 0)).unwrap();
            model.forward(&x, &t, guidance, &context, &positions, &mut off)
        }
        Generation::Flux2 => {
            let model = Flux2Transformer::load(weights, Flux2Config::from_json(&text).unwrap())?;
            let context = model.text_context(&words).unwrap();
            let positions = model.positions(&positions::text_ids(7), &positions::latent_ids(grid)).unwrap();
            model.forward(&x, &t, guidance, &context, &positions, &mut off)
        }
    };
    assert_eq!(weights.unused(), [""; 0]);
    Ok(predicted.unwrap())
}

/// Models that were published, with the recorded case whose sizes stand for theirs.
const MODELS: [(&str, &str, Generation); 4] = [
    ("flux1-dev", "flux_dev", Generation::Flux1),
    ("flux1-schnell", "flux_dev", Generation::Flux1),
    ("flux2-dev", "flux2_klein", Generation::Flux2),
    ("flux-2-klein-4b", "flux2_klein", Generation::Flux2),
];

#[test]
fn published_files_have_the_configuration_names_and_shapes_of_diffusers() {
    let root = tempfile::tempdir().unwrap();
    for ((model, _, generation), (prefix, part)) in MODELS.into_iter().zip([
        ("", "FLUX.1 transformer with guidance (native names)"),
        ("model.diffusion_model.", "FLUX.1 transformer without guidance (native names)"),
        ("", "FLUX.2 transformer with guidance (native names)"),
        ("diffusion_model.", "FLUX.2 transformer without guidance (native names)"),
    ]) {
        let published = published(model);
        let tensors = published.all();
        let mut stored: Vec<_> =
            tensors.iter().map(|(name, native)| (format!("{prefix}{name}"), native.shape.clone())).collect();
        if !prefix.is_empty() {
            stored.push(("vae.decoder.conv_in.bias".into(), vec![512]));
        }
        let file = format!("{model}.safetensors");
        write_hollow(&root.path().join(&file), &stored);
        let names = || stored.iter().map(|(name, _)| name.as_str());
        assert_eq!(native::recognise(names()), Some(part));
        assert_eq!(native::generation(names()), Some(generation));
        let (found, weights) = open(generation, &folder(root.path()), &file).unwrap();
        assert_eq!(found, config(generation, &published.config.to_string()), "{model}");
        let shapes: Shapes =
            weights.names().map(|name| (name.to_owned(), weights.shape(name).unwrap().to_vec())).collect();
        assert_eq!(shapes, of_diffusers(&tensors), "{model}");
    }
}

type Tensors = HashMap<String, Tensor>;

/// A transformer as tensors of both layouts, and its configuration.
struct Small {
    ours: Tensors,
    native: Tensors,
    config: String,
}

/// The transformer of the case that stands for a published model, with the modules of that.
fn small(model: &str, dtype: DType) -> Small {
    let (_, case, _) = MODELS.into_iter().find(|(name, ..)| *name == model).unwrap();
    both_layouts(&fixtures("golden/transformers").join(case), model, dtype)
}

/// A transformer folder, with the modules of a published model.
fn both_layouts(place: &Path, model: &str, dtype: DType) -> Small {
    let weights = Weights::open(&folder(place), &DEVICE, KEEP).unwrap();
    let tensor = |name: &str| weights.get_f32(name, weights.shape(name).unwrap()).unwrap();
    let stored: Tensors = weights.names().map(|name| (name.to_owned(), tensor(name))).collect();
    let published = published(model);
    let mut config = read_json(&place.join("config.json"));
    let tensors = published.tensors(|list| {
        let key = if list == "double_blocks" { "num_layers" } else { "num_single_layers" };
        config[key].as_u64().unwrap() as usize
    });
    config["guidance_embeds"] = published.config["guidance_embeds"].clone();
    let shapes = of_diffusers(&tensors);
    // Embedders of the guidance scale that the folder lacks are derived from those of the timestep.
    let tensor = |name: &String| match stored.get(name) {
        Some(tensor) => tensor.clone(),
        None => (&stored[&name.replace("guidance_embedder", "timestep_embedder")] * 0.7).unwrap(),
    };
    let ours: Tensors =
        shapes.keys().map(|name| (name.clone(), tensor(name).to_dtype(dtype).unwrap())).collect();
    let rows = |name: &str, row: usize| {
        let (small, large) = (ours[name].dims()[0], shapes[name][0]);
        assert_eq!(row * small % large, 0, "{name}");
        row * small / large
    };
    let native = tensors.iter().map(|(native, Native { holds, .. })| {
        let parts = holds.iter().map(|(name, first, count)| {
            ours[name].narrow(0, rows(name, *first), rows(name, *count)).unwrap()
        });
        (native.clone(), Tensor::cat(&parts.collect::<Vec<_>>(), 0).unwrap())
    });
    let native = native.collect();
    Small { ours, native, config: config.to_string() }
}

/// A folder with one file of these tensors, [`FILE`].
fn save(tensors: &Tensors) -> (tempfile::TempDir, Folder) {
    let root = tempfile::tempdir().unwrap();
    candle_core::safetensors::save(tensors, root.path().join(FILE)).unwrap();
    let folder = folder(root.path());
    (root, folder)
}

const FILE: &str = "m.safetensors";

fn plain(folder: &Folder) -> Weights {
    Weights::open_files(folder, &[FILE], &DEVICE, KEEP).unwrap()
}

#[test]
fn both_layouts_of_a_model_are_the_same_in_every_bit() {
    for dtype in [DType::F32, DType::BF16] {
        let mut outputs = Vec::new();
        for (model, _, generation) in MODELS {
            let small = small(model, dtype);
            let ((_a, ours), (_b, native)) = (save(&small.ours), save(&small.native));
            let (ours, config) = (plain(&ours), config(generation, &small.config));
            let (found, native) = open(generation, &native, FILE).unwrap();
            assert_eq!(found, config, "{model}");
            let predicted = [(&ours, &config), (&native, &found)].map(|(weights, config)| {
                let output = predict(generation, weights, config).unwrap();
                assert!(values(&output).iter().all(|x| x.is_finite()), "{model}");
                bits(&output)
            });
            assert_eq!(predicted[0], predicted[1], "{model}");
            assert_same(model, &ours, &native);
            outputs.extend(predicted.into_iter().next());
        }
        assert!(outputs[0] != outputs[1] && outputs[2] != outputs[3], "guidance changes nothing");
    }
}

#[test]
fn norms_may_be_called_as_in_diffusers() {
    let small = small("flux2-dev", DType::F32);
    let renamed =
        |(name, tensor): (&String, &Tensor)| (name.replace("_norm.scale", "_norm.weight"), tensor.clone());
    let other: Tensors = small.native.iter().map(renamed).collect();
    assert!(other.contains_key("single_blocks.0.norm.key_norm.weight"));
    let ((_a, ours), (_b, other)) = (save(&small.ours), save(&other));
    let (_, other) = open(Generation::Flux2, &other, FILE).unwrap();
    assert_same("flux2-dev", &plain(&ours), &other);
}

/// The error for the file that results from applying `edit` to the native form of a published model.
fn refusal(model: &str, edit: impl FnOnce(&mut Tensors)) -> CheckpointError {
    let (.., generation) = MODELS.into_iter().find(|(name, ..)| *name == model).unwrap();
    let mut tensors = small(model, DType::F32).native;
    edit(&mut tensors);
    let (_root, folder) = save(&tensors);
    let opened = open(generation, &folder, FILE);
    opened.and_then(|(config, weights)| predict(generation, &weights, &config)).expect_err("is refused")
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &DEVICE).unwrap()
}

#[test]
fn a_missing_tensor_is_named_as_in_the_file() {
    for (model, name) in [
        ("flux1-dev", "double_blocks.1.txt_mlp.2.bias"),
        ("flux1-dev", "guidance_in.out_layer.weight"),
        ("flux1-schnell", "single_blocks.0.norm.key_norm.scale"),
        ("flux2-dev", "final_layer.adaLN_modulation.1.weight"),
        ("flux-2-klein-4b", "double_stream_modulation_txt.lin.weight"),
    ] {
        let error = refusal(model, |tensors| drop(tensors.remove(name).unwrap()));
        assert!(error.to_string().contains(&format!("m.safetensors has no tensor \"{name}\"")), "{error}");
    }
    // Without a whole block in the middle of the list, and with a block number beyond any memory.
    let error = refusal("flux1-dev", |tensors| {
        tensors.retain(|name, _| !name.starts_with("double_blocks.0.txt"));
        tensors.insert(format!("double_blocks.{}.x", usize::MAX), zeros(&[1]));
    });
    assert!(matches!(&error, CheckpointError::MissingTensor { name, .. } if name.contains("double_blocks.")));
}

#[test]
fn a_file_without_dual_stream_blocks_is_told_so() {
    for model in ["flux1-dev", "flux-2-klein-4b"] {
        let error = refusal(model, |tensors| tensors.retain(|name, _| !name.starts_with("double_blocks.")));
        let said = error.to_string();
        assert!(said.contains("no dual-stream blocks (`double_blocks.0`)"), "{model}: {said}");
    }
}

#[test]
fn a_surplus_tensor_is_named_as_in_the_file() {
    for (model, name) in [
        ("flux1-dev", "double_blocks.0.img_attn.qkv.scales"),
        ("flux1-schnell", "single_blocks.1.linear2.lora_A"),
        ("flux1-dev", "controlnet_x_embedder.weight"),
        ("flux2-dev", "img_in.bias"),
        ("flux2-dev", "vector_in.in_layer.weight"),
    ] {
        let error = refusal(model, |tensors| drop(tensors.insert(name.into(), zeros(&[1]))));
        let said = error.to_string();
        let has = format!("m.safetensors has a tensor \"{name}\", a FLUX.");
        assert!(said.contains(&has) && error.hint().is_some(), "{said}");
    }
}

#[test]
fn tensors_that_do_not_fit_are_named_as_in_the_file() {
    let put = |name: &'static str, tensor: Tensor| {
        refusal("flux1-dev", move |tensors| drop(tensors.insert(name.into(), tensor))).to_string()
    };
    let said = put("single_blocks.1.linear1.weight", zeros(&[225, 32]));
    assert!(said.contains("\"single_blocks.1.linear1.weight\" has shape [225, 32]"), "{said}");
    let said = put("final_layer.adaLN_modulation.1.bias", zeros(&[63]));
    assert!(said.contains("\"final_layer.adaLN_modulation.1.bias\" has shape [63]"), "{said}");
    let said = put("txt_in.bias", zeros(&[31]));
    let named = "tensor \"context_embedder.bias\" (in the file \"txt_in.bias\")";
    assert!(said.contains(named) && said.contains("[31]") && said.contains("[32]"), "{said}");
    let said = put("double_blocks.1.img_attn.qkv.weight", zeros(&[96, 31]));
    assert!(said.contains("(in the file \"double_blocks.1.img_attn.qkv.weight\")"), "{said}");
    let said = put("vector_in.in_layer.bias", Tensor::zeros(32, DType::U8, &DEVICE).unwrap());
    assert!(said.contains("(in the file \"vector_in.in_layer.bias\")") && said.contains("U8"), "{said}");
    let said = put("double_blocks.0.img_attn.norm.query_norm.scale", zeros(&[5]));
    assert!(said.contains("has 5 values") && said.contains("width of 32"), "{said}");
    let said = put("double_blocks.0.img_attn.norm.query_norm.scale", zeros(&[0]));
    assert!(said.contains("has 0 values"), "{said}");
    let said = put("txt_in.weight", zeros(&[16]));
    assert!(said.contains("\"txt_in.weight\" has shape [16], expected 2 axes"), "{said}");
    // Heads whose channels cannot be rotated in pairs.
    let said = put("double_blocks.0.img_attn.norm.query_norm.scale", zeros(&[1]));
    assert!(said.contains("axes_dims_rope"), "{said}");
}

#[test]
fn files_of_other_models_are_called_by_their_names() {
    let (one, two) = (small("flux1-dev", DType::F32), small("flux2-dev", DType::F32));
    let refused = |tensors: &Tensors, generation: Generation| {
        let (_root, folder) = save(tensors);
        open(generation, &folder, FILE).map(|_| ()).expect_err("is of another model").to_string()
    };
    let said = refused(&two.native, Generation::Flux1);
    assert!(
        said.contains("\"FLUX.2 transformer with guidance (native names)\"")
            && said.contains("\"FLUX.1 transformer (native names)\""),
        "{said}"
    );
    let said = refused(&one.ours, Generation::Flux2);
    assert!(said.contains("\"FLUX.1 transformer with guidance\""), "{said}");
    let said = refused(&HashMap::from([("x".to_owned(), zeros(&[1]))]), Generation::Flux1);
    assert!(said.contains("\"other tensors\""), "{said}");

    let part = |tensors: &Tensors| native::recognise(tensors.keys().map(String::as_str));
    let generation = |tensors: &Tensors| native::generation(tensors.keys().map(String::as_str));
    assert_eq!(part(&one.ours), Some("FLUX.1 transformer with guidance"));
    assert_eq!(part(&two.ours), Some("FLUX.2 transformer with guidance"));
    assert_eq!((generation(&one.ours), generation(&two.ours)), (None, None));
    assert_eq!(generation(&one.native), Some(Generation::Flux1));
    assert_eq!(generation(&two.native), Some(Generation::Flux2));
    // Chroma, which has FLUX.1's blocks but computes their modulation differently.
    let mut chroma = one.native.clone();
    chroma.retain(|name, _| !name.contains("_mod.lin") && !name.contains("vector_in"));
    assert_eq!((part(&chroma), generation(&chroma)), (None, None));
}

/// The latents of a three-step run.
fn generate(root: &Path) -> Tensor {
    let pipeline = pipeline::open(folder(root), LoadOptions::default()).unwrap();
    let request = Request {
        prompt: "a red circle".to_owned(),
        steps: 3,
        size: [64, 48],
        ..pipeline.defaults().request.clone()
    };
    run(pipeline.as_ref(), &request)
}

#[test]
fn whole_runs_are_the_same_in_every_bit() {
    let root = tempfile::tempdir().unwrap();
    let (ours, native) = (root.path().join("ours"), root.path().join("native"));
    let copy = |part: &str, to: &Path| copy_folder(&tiny("tiny-flux").join(part), &to.join(part));
    for part in ["text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "vae"] {
        copy(part, &ours);
        copy(part, &native);
    }
    copy("scheduler", &ours);
    copy("transformer", &ours);
    fs::write(ours.join("model_index.json"), r#"{"_class_name": "FluxPipeline"}"#).unwrap();
    // A single file does not contain how the channels of a head are divided.
    edit_json(&ours.join("transformer/config.json"), |config| config["axes_dims_rope"] = json!([4, 14, 14]));
    let tensors = both_layouts(&ours.join("transformer"), "flux1-dev", DType::F32).native;
    candle_core::safetensors::save(&tensors, native.join("flux1-dev.safetensors")).unwrap();

    let (want, got) = (generate(&ours), generate(&native));
    assert_eq!(bits(&got), bits(&want));
    assert!(values(&got).iter().all(|x| x.is_finite()));

    fs::remove_dir_all(native.join("text_encoder_2")).unwrap();
    let opened = pipeline::open(folder(&native), LoadOptions::default());
    let message = magcache_core::hint::told(&opened.unwrap_err());
    assert!(
        message.contains("text_encoder_2/config.json") && message.contains("--text-encoder FILE"),
        "{message}"
    );
}
