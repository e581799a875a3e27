//! The Wan transformer against diffusers 0.42.1: every call of every case, and what flows between the blocks.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use candle_core::{Device, Result, Tensor};
use magcache_core::{BlockHook, Branch, Cx, HookRegistry, Next, Output, Pass, Signal, Step, Streams};
use magcache_models::checkpoint::{Folder, WeightDtype, Weights};
use magcache_models::wan::{TextContext, WanConfig, WanTransformer};
use serde_json::Value;

struct Case {
    model: WanTransformer,
    tensors: HashMap<String, Tensor>,
    calls: Vec<Value>,
}

impl Case {
    fn open(name: &str) -> Self {
        let folder =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/golden/transformers").join(name);
        let config = WanConfig::from_json(&fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
        let case: Value =
            serde_json::from_str(&fs::read_to_string(folder.join("case.json")).unwrap()).unwrap();
        let tensors =
            candle_core::safetensors::load(folder.join("golden.safetensors"), &Device::Cpu).unwrap();
        let weights = Weights::open(&Folder::open(folder).unwrap(), &Device::Cpu, WeightDtype::Keep).unwrap();
        let model = WanTransformer::load(&weights, config).unwrap();
        assert_eq!(weights.unused(), [""; 0], "{name}: tensors that nothing reads");
        Self { model, tensors, calls: case["calls"].as_array().unwrap().clone() }
    }

    fn input(&self, call: &Value, name: &str) -> Option<&Tensor> {
        call["inputs"][name].as_str().map(|key| &self.tensors[key])
    }

    fn context(&self, call: &Value) -> TextContext {
        let text = self.input(call, "encoder_hidden_states").unwrap();
        match self.input(call, "encoder_hidden_states_image") {
            Some(image) => self.model.image_text_context(text, image).unwrap(),
            None => self.model.text_context(text).unwrap(),
        }
    }

    fn forward(&self, call: &Value, context: &TextContext, pass: &mut Pass<'_>) -> Tensor {
        let (x, t) = (self.input(call, "hidden_states").unwrap(), self.input(call, "timestep").unwrap());
        self.model.forward(x, t, context, pass).unwrap()
    }

    fn check(&self, name: &str) {
        assert!(!self.calls.is_empty());
        for call in &self.calls {
            let output = self.forward(call, &self.context(call), &mut Pass::off());
            let want = &self.tensors[call["outputs"]["sample"].as_str().unwrap()];
            close(&format!("{name}/{}", call["name"]), &output, want, tolerance(call));
        }
    }
}

/// Rounding noise of the reference itself, with a margin, and at least 2e-5.
fn tolerance(call: &Value) -> f64 {
    call["fp32_vs_fp64_max_abs"].as_f64().map_or(2e-5, |noise| (20.0 * noise).max(2e-5))
}

fn close(what: &str, got: &Tensor, want: &Tensor, tolerance: f64) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let difference = (got - want).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
    let difference = f64::from(difference.to_scalar::<f32>().unwrap());
    assert!(difference <= tolerance, "{what}: differs by {difference}, allowed {tolerance}");
}

#[test]
fn text_to_video() {
    Case::open("wan21_t2v").check("wan21_t2v");
}

#[test]
fn one_layer_without_cross_attention_norm_and_small_variances() {
    Case::open("wan_t2v_one_layer_no_cross_norm").check("wan_t2v_one_layer_no_cross_norm");
}

#[test]
fn image_to_video_with_image_embeddings() {
    Case::open("wan21_i2v").check("wan21_i2v");
}

#[test]
fn first_and_last_frame_to_video() {
    Case::open("wan21_flf2v").check("wan21_flf2v");
}

#[test]
fn image_to_video_with_concatenated_latents() {
    Case::open("wan22_i2v_a14b").check("wan22_i2v_a14b");
}

#[test]
fn a_timestep_for_every_token() {
    Case::open("wan22_ti2v_5b").check("wan22_ti2v_5b");
}

/// Notes what leaves its block and, before the first, what the model shows to strategies.
#[derive(Debug)]
struct Trace(Arc<Mutex<HashMap<String, Tensor>>>);

impl BlockHook for Trace {
    fn call(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> Result<Output> {
        let block = next.blocks().start;
        let probe = cx.probe.expect("the model shows its signals");
        let signals = [
            ("temb", Signal::TimestepEmbedding),
            ("timestep_proj", Signal::TimestepProjection),
            ("blocks.0.modulated_input", Signal::ModulatedInput),
        ];
        let mut seen = HashMap::new();
        for (name, signal) in signals.into_iter().filter(|_| block == 0) {
            seen.insert(name.to_owned(), probe(signal, &x)?);
        }
        let output = next.run(cx, x)?;
        seen.insert(format!("blocks.{block}.out"), output.streams.image()?);
        self.0.lock().unwrap().extend(seen);
        Ok(output)
    }
}

#[test]
fn every_block_and_signal_equals_the_reference() {
    let case = Case::open("wan21_t2v");
    let blocks = case.model.config().num_layers;
    let seen = Arc::new(Mutex::new(HashMap::new()));
    let mut hooks = HookRegistry::builder(blocks);
    for block in 0..blocks {
        hooks = hooks.ring(block..block + 1, Arc::new(Trace(Arc::clone(&seen)))).unwrap();
    }
    let mut session = hooks.build().session();
    let call = &case.calls[0];
    case.forward(call, &case.context(call), &mut session.pass(Step::plain(0, 1), Branch::Cond));
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), blocks + 3);
    for (name, got) in seen.iter() {
        let want = &case.tensors[&format!("{}.trace.{name}", call["name"].as_str().unwrap())];
        close(name, got, want, tolerance(call));
    }
}

#[test]
fn two_threads_share_a_model_and_a_context() {
    let case = Case::open("wan21_t2v");
    let call = &case.calls[0];
    let context = case.context(call);
    let alone = case.forward(call, &case.context(call), &mut Pass::off()).flatten_all().unwrap();
    let outputs = std::thread::scope(|scope| {
        let run = || case.forward(call, &context, &mut Pass::off()).flatten_all().unwrap();
        let threads = [scope.spawn(run), scope.spawn(run)];
        threads.map(|thread| thread.join().unwrap())
    });
    for output in outputs {
        assert_eq!(output.to_vec1::<f32>().unwrap(), alone.to_vec1::<f32>().unwrap());
    }
}
