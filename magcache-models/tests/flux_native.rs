//! Native single files of the Flux transformers against diffusers' converters, whose results on the published
//! files are recorded in `tests/fixtures/flux_native_names.json`, row by row.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::{DType, Device, Tensor};
use magcache_core::Pass;
use magcache_models::{
    checkpoint::{CheckpointError, Folder, WeightDtype, Weights},
    flux::{
        Flux2Config, Flux2Transformer, FluxConfig, FluxTransformer, flux1, flux2,
        native::{self, Generation},
    },
    pipeline::{self, Generation as Run, LoadOptions, Request},
};
use serde::Deserialize;
use serde_json::{Value, json};

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

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

fn published(model: &str) -> Published {
    let text = fs::read_to_string(fixtures().join("flux_native_names.json")).unwrap();
    serde_json::from_str::<HashMap<String, Published>>(&text).unwrap().remove(model).unwrap()
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

/// A file with the header of a published one in bf16, and a hole instead of its data.
fn hollow(path: &Path, tensors: &[(String, Vec<usize>)]) {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}));
    }
    let header = Value::Object(header).to_string();
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
}

/// Asserts that these tensors exist and no others.
fn assert_shapes(weights: &Weights, expected: &Shapes) {
    for (name, shape) in expected {
        assert_eq!(weights.shape(name), Some(shape.as_slice()), "{name}");
    }
    let surplus: Vec<&str> = weights.names().filter(|name| !expected.contains_key(*name)).collect();
    assert_eq!(surplus, [""; 0]);
}

const DEVICE: Device = Device::Cpu;
const KEEP: WeightDtype = WeightDtype::Keep;

#[test]
fn published_files_have_the_configuration_names_and_shapes_of_diffusers() {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::open(root.path()).unwrap();
    for (model, prefix, part) in [
        ("flux1-dev", "", "FLUX.1 transformer with guidance (native names)"),
        ("flux1-schnell", "model.diffusion_model.", "FLUX.1 transformer without guidance (native names)"),
        ("flux2-dev", "", "FLUX.2 transformer with guidance (native names)"),
        ("flux-2-klein-4b", "diffusion_model.", "FLUX.2 transformer without guidance (native names)"),
    ] {
        let published = published(model);
        let tensors = published.all();
        let mut stored: Vec<_> =
            tensors.iter().map(|(name, native)| (format!("{prefix}{name}"), native.shape.clone())).collect();
        if !prefix.is_empty() {
            stored.push(("vae.decoder.conv_in.bias".into(), vec![512]));
        }
        let file = format!("{model}.safetensors");
        hollow(&root.path().join(&file), &stored);
        let names = || stored.iter().map(|(name, _)| name.as_str());
        assert_eq!(native::recognise(names()), Some(part));
        let config = published.config.to_string();
        let weights = if native::generation(names()) == Some(Generation::Flux1) {
            let (found, weights) = flux1::native::open(&folder, &file, &DEVICE, KEEP).unwrap();
            assert_eq!(found, FluxConfig::from_json(&config).unwrap(), "{model}");
            weights
        } else {
            let (found, weights) = flux2::native::open(&folder, &file, &DEVICE, KEEP).unwrap();
            assert_eq!(found, Flux2Config::from_json(&config).unwrap(), "{model}");
            weights
        };
        assert_shapes(&weights, &of_diffusers(&tensors));
    }
}

/// One recorded case of diffusers, as tensors of both layouts.
struct Small {
    ours: HashMap<String, Tensor>,
    native: HashMap<String, Tensor>,
    config: String,
    inputs: HashMap<String, Tensor>,
}

/// The case `name`, with the modules of a published model and in its native form.
fn small(name: &str, model: &str, dtype: DType) -> Small {
    let case = fixtures().join("golden/transformers").join(name);
    let inputs = candle_core::safetensors::load(case.join("golden.safetensors"), &DEVICE).unwrap();
    let (ours, native, config) = both_layouts(&case, model, dtype);
    Small { ours, native, config, inputs }
}

type Tensors = HashMap<String, Tensor>;

/// A transformer folder with the modules of a published model, as tensors of both layouts, and its
/// configuration.
fn both_layouts(folder: &Path, model: &str, dtype: DType) -> (Tensors, Tensors, String) {
    let stored =
        candle_core::safetensors::load(folder.join("diffusion_pytorch_model.safetensors"), &DEVICE).unwrap();
    let published = published(model);
    let mut config: Value =
        serde_json::from_str(&fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
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
    (ours, native, config.to_string())
}

fn save(tensors: &HashMap<String, Tensor>) -> (tempfile::TempDir, Folder) {
    let root = tempfile::tempdir().unwrap();
    candle_core::safetensors::save(tensors, root.path().join("m.safetensors")).unwrap();
    let folder = Folder::open(root.path()).unwrap();
    (root, folder)
}

fn bits(x: &Tensor) -> Vec<u32> {
    let x = x.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
    x.to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

/// Asserts that both have the same tensors with the same types.
fn assert_same(ours: &Weights, native: &Weights) {
    let shapes: Shapes =
        ours.names().map(|name| (name.to_owned(), ours.shape(name).unwrap().to_vec())).collect();
    assert_shapes(native, &shapes);
    for (name, shape) in shapes {
        let (ours, native) = (ours.get(&name, &shape).unwrap(), native.get(&name, &shape).unwrap());
        assert_eq!(ours.dtype(), native.dtype(), "{name}");
        assert_eq!(bits(&ours), bits(&native), "{name}");
    }
}

impl Small {
    fn input(&self, name: &str) -> &Tensor {
        &self.inputs[&format!("b1.{name}")]
    }

    fn ids<const N: usize>(&self, name: &str) -> Vec<[f32; N]> {
        let tensor = self.input(name).to_dtype(DType::F32).unwrap();
        let rows = tensor.flatten_to(tensor.rank() - 2).unwrap().to_vec2::<f32>().unwrap();
        rows.into_iter().map(|row| row.try_into().unwrap()).collect()
    }

    fn flux1(&self, weights: &Weights, config: FluxConfig) -> Tensor {
        let guidance = config.guidance_embeds.then(|| Tensor::new(&[3.5f32], &DEVICE).unwrap());
        let model = FluxTransformer::load(weights, config).unwrap();
        assert_eq!(weights.unused(), [""; 0]);
        let (text, pooled) = (self.input("encoder_hidden_states"), self.input("pooled_projections"));
        let context = model.text_context(text, pooled).unwrap();
        let positions = model.positions(&self.ids("txt_ids"), &self.ids("img_ids")).unwrap();
        let (x, t) = (self.input("hidden_states"), self.input("timestep"));
        model.forward(x, t, guidance.as_ref(), &context, &positions, &mut Pass::off()).unwrap()
    }

    fn flux2(&self, weights: &Weights, config: Flux2Config) -> Tensor {
        let guidance = config.guidance_embeds.then(|| Tensor::new(&[3.5f32], &DEVICE).unwrap());
        let model = Flux2Transformer::load(weights, config).unwrap();
        assert_eq!(weights.unused(), [""; 0]);
        let context = model.text_context(self.input("encoder_hidden_states")).unwrap();
        let positions = model.positions(&self.ids("txt_ids"), &self.ids("img_ids")).unwrap();
        let (x, t) = (self.input("hidden_states"), self.input("timestep"));
        model.forward(x, t, guidance.as_ref(), &context, &positions, &mut Pass::off()).unwrap()
    }
}

#[test]
fn both_layouts_of_a_model_are_the_same_in_every_bit() {
    for dtype in [DType::F32, DType::BF16] {
        let mut outputs = Vec::new();
        for model in ["flux1-dev", "flux1-schnell"] {
            let small = small("flux_dev", model, dtype);
            let ((_a, ours), (_b, native)) = (save(&small.ours), save(&small.native));
            let ours = Weights::open_files(&ours, &["m.safetensors"], &DEVICE, KEEP).unwrap();
            let (found, native) = flux1::native::open(&native, "m.safetensors", &DEVICE, KEEP).unwrap();
            let config = FluxConfig::from_json(&small.config).unwrap();
            assert_eq!(found, config, "{model}");
            let (ours_out, native_out) = (small.flux1(&ours, config), small.flux1(&native, found));
            assert_eq!(bits(&ours_out), bits(&native_out), "{model}");
            assert_same(&ours, &native);
            outputs.push(bits(&native_out));
        }
        for model in ["flux2-dev", "flux-2-klein-4b"] {
            let small = small("flux2_klein", model, dtype);
            let ((_a, ours), (_b, native)) = (save(&small.ours), save(&small.native));
            let ours = Weights::open_files(&ours, &["m.safetensors"], &DEVICE, KEEP).unwrap();
            let (found, native) = flux2::native::open(&native, "m.safetensors", &DEVICE, KEEP).unwrap();
            let config = Flux2Config::from_json(&small.config).unwrap();
            assert_eq!(found, config, "{model}");
            let (ours_out, native_out) = (small.flux2(&ours, config), small.flux2(&native, found));
            assert_eq!(bits(&ours_out), bits(&native_out), "{model}");
            assert_same(&ours, &native);
            outputs.push(bits(&native_out));
        }
        assert!(outputs.iter().flatten().all(|bits| f32::from_bits(*bits).is_finite()));
        assert!(outputs[0] != outputs[1] && outputs[2] != outputs[3], "guidance changes nothing");
    }
}

#[test]
fn norms_may_be_called_as_in_diffusers() {
    let small = small("flux2_klein", "flux2-dev", DType::F32);
    let renamed =
        |(name, tensor): (&String, &Tensor)| (name.replace("_norm.scale", "_norm.weight"), tensor.clone());
    let other: HashMap<String, Tensor> = small.native.iter().map(renamed).collect();
    assert!(other.contains_key("single_blocks.0.norm.key_norm.weight"));
    let ((_a, ours), (_b, other)) = (save(&small.ours), save(&other));
    let (_, other) = flux2::native::open(&other, "m.safetensors", &DEVICE, KEEP).unwrap();
    assert_same(&Weights::open_files(&ours, &["m.safetensors"], &DEVICE, KEEP).unwrap(), &other);
}

/// The error for the file that results from applying `edit` to the native form of a case.
fn refusal(case: &str, model: &str, edit: impl FnOnce(&mut HashMap<String, Tensor>)) -> CheckpointError {
    let mut tensors = small(case, model, DType::F32).native;
    edit(&mut tensors);
    let (_root, folder) = save(&tensors);
    let file = "m.safetensors";
    let error = if case == "flux_dev" {
        let opened = flux1::native::open(&folder, file, &DEVICE, KEEP);
        opened.and_then(|(config, weights)| FluxTransformer::load(&weights, config).map(|_| ()))
    } else {
        let opened = flux2::native::open(&folder, file, &DEVICE, KEEP);
        opened.and_then(|(config, weights)| Flux2Transformer::load(&weights, config).map(|_| ()))
    };
    error.expect_err("is refused")
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &DEVICE).unwrap()
}

#[test]
fn a_missing_tensor_is_named_as_in_the_file() {
    for (case, model, name) in [
        ("flux_dev", "flux1-dev", "double_blocks.1.txt_mlp.2.bias"),
        ("flux_dev", "flux1-dev", "guidance_in.out_layer.weight"),
        ("flux_dev", "flux1-schnell", "single_blocks.0.norm.key_norm.scale"),
        ("flux2_klein", "flux2-dev", "final_layer.adaLN_modulation.1.weight"),
        ("flux2_klein", "flux-2-klein-4b", "double_stream_modulation_txt.lin.weight"),
    ] {
        let error = refusal(case, model, |tensors| drop(tensors.remove(name).unwrap()));
        assert!(error.to_string().contains(&format!("m.safetensors has no tensor \"{name}\"")), "{error}");
    }
    // Without a whole block in the middle of the list, and with a block number beyond any memory.
    let error = refusal("flux_dev", "flux1-dev", |tensors| {
        tensors.retain(|name, _| !name.starts_with("double_blocks.0.txt"));
        tensors.insert(format!("double_blocks.{}.x", usize::MAX), zeros(&[1]));
    });
    assert!(matches!(&error, CheckpointError::MissingTensor { name, .. } if name.contains("double_blocks.")));
}

#[test]
fn a_surplus_tensor_is_named_as_in_the_file() {
    for (case, model, name) in [
        ("flux_dev", "flux1-dev", "double_blocks.0.img_attn.qkv.scale_weight"),
        ("flux_dev", "flux1-schnell", "single_blocks.1.linear2.lora_A"),
        ("flux_dev", "flux1-dev", "controlnet_x_embedder.weight"),
        ("flux2_klein", "flux2-dev", "img_in.bias"),
        ("flux2_klein", "flux2-dev", "vector_in.in_layer.weight"),
    ] {
        let error = refusal(case, model, |tensors| drop(tensors.insert(name.into(), zeros(&[1]))));
        let said = error.to_string();
        let has = format!("m.safetensors has a tensor \"{name}\", a FLUX.");
        assert!(said.contains(&has) && error.hint().is_some(), "{said}");
    }
}

#[test]
fn tensors_that_do_not_fit_are_named_as_in_the_file() {
    let put = |name: &'static str, tensor: Tensor| {
        refusal("flux_dev", "flux1-dev", move |tensors| drop(tensors.insert(name.into(), tensor))).to_string()
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
    let (one, two) =
        (small("flux_dev", "flux1-dev", DType::F32), small("flux2_klein", "flux2-dev", DType::F32));
    let refused = |tensors: &HashMap<String, Tensor>, first: bool| {
        let (_root, folder) = save(tensors);
        let file = "m.safetensors";
        let error = if first {
            flux1::native::open(&folder, file, &DEVICE, KEEP).map(|_| ())
        } else {
            flux2::native::open(&folder, file, &DEVICE, KEEP).map(|_| ())
        };
        error.expect_err("is of another model").to_string()
    };
    let said = refused(&two.native, true);
    assert!(
        said.contains("\"FLUX.2 transformer with guidance (native names)\"")
            && said.contains("\"FLUX.1 transformer (native names)\""),
        "{said}"
    );
    let said = refused(&one.ours, false);
    assert!(said.contains("\"FLUX.1 transformer with guidance\""), "{said}");
    let said = refused(&HashMap::from([("x".to_owned(), zeros(&[1]))]), true);
    assert!(said.contains("\"other tensors\""), "{said}");

    let part = |tensors: &HashMap<String, Tensor>| native::recognise(tensors.keys().map(String::as_str));
    let generation =
        |tensors: &HashMap<String, Tensor>| native::generation(tensors.keys().map(String::as_str));
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

/// Copies the folders `parts` of the small trained model to `to`.
fn copy(parts: &[&str], to: &Path) {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tiny/tiny-flux");
    for part in parts {
        fs::create_dir_all(to.join(part)).unwrap();
        for file in fs::read_dir(tiny.join(part)).unwrap().map(Result::unwrap) {
            fs::copy(file.path(), to.join(part).join(file.file_name())).unwrap();
        }
    }
}

/// The latents of a three-step run.
fn generate(root: &Path) -> Tensor {
    let pipeline = pipeline::open(Folder::open(root).unwrap(), LoadOptions::default()).unwrap();
    let request = Request {
        prompt: "a red circle".to_owned(),
        steps: 3,
        size: [64, 48],
        ..pipeline.defaults().request.clone()
    };
    pipeline.check(&request).unwrap();
    let denoiser = pipeline.denoiser(&request, &|_| {}, &mut Vec::new()).unwrap();
    let (sampler, noise) = (pipeline.sampler(&request).unwrap(), pipeline.noise(&request).unwrap());
    let trajectory = pipeline.trajectory(&request).unwrap();
    let mut run = Run::new(denoiser, trajectory, sampler, &noise, &Arc::default()).unwrap();
    run.run(&|| false, &mut |_| {}).unwrap();
    run.latents().clone()
}

#[test]
fn whole_runs_are_the_same_in_every_bit() {
    const TEXT: [&str; 5] = ["text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "vae"];
    let root = tempfile::tempdir().unwrap();
    let (ours, native) = (root.path().join("ours"), root.path().join("native"));
    copy(&TEXT, &ours);
    copy(&["scheduler", "transformer"], &ours);
    copy(&TEXT, &native);
    let config = ours.join("transformer/config.json");
    // A single file does not contain how the channels of a head are divided.
    let text = fs::read_to_string(&config).unwrap();
    let mut changed: Value = serde_json::from_str(&text).unwrap();
    changed["axes_dims_rope"] = json!([4, 14, 14]);
    fs::write(&config, changed.to_string()).unwrap();
    fs::write(ours.join("model_index.json"), r#"{"_class_name": "FluxPipeline"}"#).unwrap();
    let (_, tensors, _) = both_layouts(&ours.join("transformer"), "flux1-dev", DType::F16);
    candle_core::safetensors::save(&tensors, native.join("flux1-dev.safetensors")).unwrap();

    let (want, got) = (generate(&ours), generate(&native));
    assert_eq!(bits(&got), bits(&want));
    assert!(bits(&got).iter().all(|bits| f32::from_bits(*bits).is_finite()));

    fs::remove_dir_all(native.join("text_encoder_2")).unwrap();
    let opened = pipeline::open(Folder::open(&native).unwrap(), LoadOptions::default());
    let message = magcache_core::hint::told(&opened.unwrap_err());
    assert!(message.contains("text_encoder_2/config.json") && message.contains("single files"), "{message}");
}
