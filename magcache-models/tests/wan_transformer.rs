//! Layouts, storage types, skipped steps and misuse of the Wan transformer.

mod support;

use std::{collections::HashMap, fs, sync::Arc};

use candle_core::{DType, Result, Tensor};
use magcache_core::{BlockHook, Branch, Cx, HookRegistry, Next, Output, Pass, Step, Streams, hint::told};
use magcache_models::{
    checkpoint::Weights,
    pipeline::noise,
    wan::{WanConfig, WanTransformer},
};
use support::{DEVICE, KEEP, fixtures, values};

type Tensors = HashMap<String, Tensor>;

fn case(name: &str) -> (WanConfig, Tensors) {
    let folder = fixtures("golden/transformers").join(name);
    let config = WanConfig::from_json(&fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
    let file = folder.join("diffusion_pytorch_model.safetensors");
    (config, candle_core::safetensors::load(file, &DEVICE).unwrap())
}

fn weights(tensors: &Tensors) -> Weights {
    let bytes = safetensors::serialize(tensors, None).unwrap();
    Weights::from_bytes("model.safetensors", bytes, &DEVICE, KEEP).unwrap()
}

fn load(tensors: &Tensors, config: &WanConfig) -> WanTransformer {
    WanTransformer::load(&weights(tensors), config.clone()).unwrap()
}

/// The same numbers for the same shape, in every run.
fn random(shape: &[usize]) -> Tensor {
    let seed = shape.iter().fold(0, |seed, n| seed * 31 + *n as u64);
    noise(seed, shape, &DEVICE).unwrap()
}

/// Latents, timestep, text and image embeddings that fit `config`.
struct Inputs {
    latents: Tensor,
    timestep: Tensor,
    text: Tensor,
    image: Option<Tensor>,
}

impl Inputs {
    fn new(config: &WanConfig) -> Self {
        Self {
            latents: random(&[1, config.in_channels, 3, 4, 6]),
            timestep: Tensor::new(&[417f32], &DEVICE).unwrap(),
            text: random(&[1, if config.image_dim.is_some() { 512 } else { 7 }, config.text_dim]),
            image: config.image_dim.map(|dim| random(&[2, config.pos_embed_seq_len.unwrap_or(8) / 2, dim])),
        }
    }

    fn run(&self, model: &WanTransformer) -> Vec<f32> {
        let context = match &self.image {
            Some(image) => model.image_text_context(&self.text, image).unwrap(),
            None => model.text_context(&self.text).unwrap(),
        };
        let output = model.forward(&self.latents, &self.timestep, &context, &mut Pass::off()).unwrap();
        values(&output)
    }
}

#[test]
fn half_precision_files_compute_as_their_f32_values() {
    let (config, tensors) = case("wan21_t2v");
    let inputs = Inputs::new(&config);
    for dtype in [DType::BF16, DType::F16] {
        let cast = |to: DType, tensors: &Tensors| -> Tensors {
            tensors.iter().map(|(name, tensor)| (name.clone(), tensor.to_dtype(to).unwrap())).collect()
        };
        let stored = cast(dtype, &tensors);
        let widened = cast(DType::F32, &stored);
        let half = inputs.run(&load(&stored, &config));
        let full = inputs.run(&load(&widened, &config));
        assert_eq!(half, full, "{dtype:?}");
    }
}

#[test]
fn a_file_that_does_not_fit_names_the_tensor() {
    let (config, tensors) = case("wan21_t2v");
    let name = "blocks.1.attn2.norm_k.weight";
    let mut lacking = tensors.clone();
    lacking.remove(name);
    let message = WanTransformer::load(&weights(&lacking), config.clone()).unwrap_err().to_string();
    assert!(message.contains(name), "{message}");
    let mut wrong = tensors;
    wrong.insert(name.into(), random(&[41]));
    let message = WanTransformer::load(&weights(&wrong), config).unwrap_err().to_string();
    assert!(message.contains(name) && message.contains("[41]") && message.contains("[40]"), "{message}");
}

/// Stands in for a strategy that reuses everything.
#[derive(Debug)]
struct Skip;

impl BlockHook for Skip {
    fn call(&self, _: &mut Cx<'_>, x: Streams, _: Next<'_>) -> Result<Output> {
        Ok(Output { streams: x, exact: false })
    }
}

#[test]
fn a_skipped_block_never_computes_its_keys_and_values() {
    let (config, tensors) = case("wan21_t2v");
    let (inputs, blocks) = (Inputs::new(&config), config.num_layers);
    let model = load(&tensors, &config);
    let context = model.text_context(&inputs.text).unwrap();
    let text_only = context.bytes();
    let forward = |pass: &mut Pass<'_>| {
        model.forward(&inputs.latents, &inputs.timestep, &context, pass).unwrap();
        context.bytes() / text_only
    };
    let hooks = HookRegistry::builder(blocks).ring(1..blocks, Arc::new(Skip)).unwrap().build();
    assert_eq!(forward(&mut hooks.session().pass(&Step::plain(0, 1), Branch::Cond)), 1 + 2);
    assert_eq!(forward(&mut Pass::off()), 1 + 2 * blocks);
    assert_eq!(forward(&mut Pass::off()), 1 + 2 * blocks);
}

#[test]
fn misuse_is_refused_with_both_values() {
    let (config, tensors) = case("wan21_t2v");
    let inputs = Inputs::new(&config);
    let model = load(&tensors, &config);
    let other = load(&tensors, &config);
    let context = model.text_context(&inputs.text).unwrap();
    let error = |latents: &Tensor, timestep: &Tensor| {
        model.forward(latents, timestep, &context, &mut Pass::off()).unwrap_err().to_string()
    };
    for (latents, timestep, part) in [
        (random(&[1, 5, 3, 4, 6]), inputs.timestep.clone(), "5 channels, `in_channels` of the model is 4"),
        (random(&[1, 4, 3, 5, 6]), inputs.timestep.clone(), "[3, 5, 6]"),
        (random(&[1, 4, 65, 2, 2]), inputs.timestep.clone(), "`rope_max_seq_len` of the model is 64"),
        (random(&[2, 4, 3, 4, 6]), random(&[2]), "1 prompts, the latents a batch of 2"),
        (inputs.latents.clone(), random(&[1, 17]), "shape [1, 17], expected [1] or [1, 18]"),
        (inputs.latents.clone(), random(&[2]), "shape [2], expected [1] or [1, 18]"),
    ] {
        let message = error(&latents, &timestep);
        assert!(message.contains(part), "`{message}` lacks `{part}`");
    }
    let message = other.forward(&inputs.latents, &inputs.timestep, &context, &mut Pass::off()).unwrap_err();
    assert!(message.to_string().contains("another model"), "{message}");
    let (input, theirs) =
        (model.embed(&inputs.latents, &inputs.timestep).unwrap(), other.text_context(&inputs.text).unwrap());
    let message = other.predict(&input, &theirs, &mut Pass::off()).unwrap_err();
    assert!(message.to_string().contains("embedded by another model"), "{message}");
    assert!(model.text_context(&random(&[1, 7, 23])).unwrap_err().to_string().contains("23 channels"));
    let message = told(&model.image_text_context(&inputs.text, &inputs.text).unwrap_err());
    assert!(message.contains("text_context"), "{message}");
    let (config, tensors) = case("wan21_flf2v");
    let image = Inputs::new(&config);
    let model = load(&tensors, &config);
    let message = magcache_core::hint::told(&model.text_context(&image.text).unwrap_err());
    assert!(message.contains("image_text_context"), "{message}");
    let short = image.text.narrow(1, 0, 500).unwrap();
    let message = model.image_text_context(&short, &image.text).unwrap_err().to_string();
    assert!(message.contains("500 text tokens") && message.contains("512"), "{message}");
}

#[test]
fn two_threads_share_a_model_and_a_context() {
    let (config, tensors) = case("wan21_t2v");
    let model = load(&tensors, &config);
    let inputs = Inputs::new(&config);
    let alone = inputs.run(&model);
    let context = model.text_context(&inputs.text).unwrap();
    let run = || {
        let output = model.forward(&inputs.latents, &inputs.timestep, &context, &mut Pass::off()).unwrap();
        values(&output)
    };
    let outputs = std::thread::scope(|scope| {
        let threads = [scope.spawn(run), scope.spawn(run)];
        threads.map(|thread| thread.join().unwrap())
    });
    assert_eq!(outputs, [alone.clone(), alone]);
}
