//! The Flux transformers under caches that may skip nothing, and misuse of them. That they equal diffusers is shown by the
//! recorded cases in `verify`.

mod support;

use std::{collections::HashMap, fs, path::Path};

use candle_core::{Device, Result, Tensor};
use magcache_core::{Branch, CachePlan, ModelMeta, Pass, Trajectory, testing::same_bits};
use magcache_models::{
    checkpoint::{Folder, WeightDtype, Weights},
    flux::{FluxConfig, FluxTransformer},
    flux2::{Flux2Config, Flux2Transformer},
};
use support::strategies;

enum Model {
    One(FluxTransformer),
    Two(Flux2Transformer),
}

/// One recorded case.
struct Case {
    model: Model,
    tensors: HashMap<String, Tensor>,
}

fn open(name: &str) -> Case {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden/transformers").join(name);
    let tensors = candle_core::safetensors::load(folder.join("golden.safetensors"), &Device::Cpu).unwrap();
    let config = fs::read_to_string(folder.join("config.json")).unwrap();
    let weights = Weights::open(&Folder::open(folder).unwrap(), &Device::Cpu, WeightDtype::Keep).unwrap();
    let model = if name.starts_with("flux2") {
        Model::Two(Flux2Transformer::load(&weights, Flux2Config::from_json(&config).unwrap()).unwrap())
    } else {
        Model::One(FluxTransformer::load(&weights, FluxConfig::from_json(&config).unwrap()).unwrap())
    };
    assert_eq!(weights.unused(), [""; 0], "{name}: tensors that nothing reads");
    Case { model, tensors }
}

fn ids<const N: usize>(tensor: &Tensor) -> Vec<[f32; N]> {
    let tensor = if tensor.rank() == 3 { tensor.get(0).unwrap() } else { tensor.clone() };
    let rows = tensor.to_dtype(candle_core::DType::F32).unwrap().to_vec2::<f32>().unwrap();
    rows.into_iter().map(|row| row.try_into().unwrap()).collect()
}

impl Case {
    fn input(&self, name: &str) -> &Tensor {
        &self.tensors[&format!("b1.{name}")]
    }

    fn meta(&self) -> &ModelMeta {
        match &self.model {
            Model::One(model) => model.meta(),
            Model::Two(model) => model.meta(),
        }
    }

    fn forward(&self, x: &Tensor, guided: bool, image_tokens: usize, pass: &mut Pass<'_>) -> Result<Tensor> {
        let (timestep, text) = (self.input("timestep"), self.input("encoder_hidden_states"));
        let guidance = guided.then(|| self.input("guidance"));
        let (text_ids, image_ids) = (self.input("txt_ids"), self.input("img_ids"));
        match &self.model {
            Model::One(model) => {
                let context = model.text_context(text, self.input("pooled_projections"))?;
                let positions = model.positions(&ids(text_ids), &ids(image_ids)[..image_tokens])?;
                model.forward(x, timestep, guidance, &context, &positions, pass)
            }
            Model::Two(model) => {
                let context = model.text_context(text)?;
                let positions = model.positions(&ids(text_ids), &ids(image_ids)[..image_tokens])?;
                model.forward(x, timestep, guidance, &context, &positions, pass)
            }
        }
    }

    fn plain(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        self.forward(x, true, 12, pass)
    }
}

const CASES: [&str; 2] = ["flux_small", "flux2_small"];

#[test]
fn a_cache_that_may_skip_nothing_changes_no_bit() {
    for name in CASES {
        let case = open(name);
        let x = case.input("hidden_states");
        let want = case.plain(x, &mut Pass::off()).unwrap();
        // The forward knows nothing of guidance, and some strategies are for two branches only.
        let meta = ModelMeta { guided: true, ..case.meta().clone() };
        let trajectory = Trajectory::plain(4, &[Branch::Cond, Branch::Uncond]);
        for info in strategies() {
            for at in ["", "at = \"double\"\n", "at = \"single\"\n", "at = \"1..3\"\n"] {
                let plan = CachePlan::parse(&format!("[[cache]]\n{at}{}", info.never)).unwrap();
                let Ok(built) = plan.build(&meta, Some(&trajectory)) else {
                    assert!(!at.is_empty(), "{} does not build", info.name);
                    continue;
                };
                let mut session = built.registry.session();
                for step in trajectory.steps() {
                    for branch in trajectory.branches_at(&step) {
                        let mut pass = session.pass(step.clone(), *branch);
                        let y = pass.forward(x.clone(), |x, pass| case.plain(&x, pass)).unwrap();
                        assert!(same_bits(&y, &want), "{name} {} {at}", info.name);
                    }
                }
            }
        }
    }
}

#[test]
fn misuse_is_refused_with_both_values() {
    for name in CASES {
        let case = open(name);
        let x = case.input("hidden_states");
        let message = |result: Result<Tensor>| result.unwrap_err().to_string();
        let missing = message(case.forward(x, false, 12, &mut Pass::off()));
        assert!(missing.contains("guidance-distilled"), "{missing}");
        let short = message(case.forward(x, true, 11, &mut Pass::off()));
        assert!(short.contains("12 image tokens") && short.contains("ids for 7 and 11"), "{short}");
        let two = Tensor::cat(&[x, x], 0).unwrap();
        let batch = message(case.plain(&two, &mut Pass::off()));
        assert!(batch.contains("1 prompts") && batch.contains("batch of 2"), "{batch}");
        let wide = Tensor::zeros((1, 12, 9), candle_core::DType::F32, &Device::Cpu).unwrap();
        let channels = message(case.plain(&wide, &mut Pass::off()));
        assert!(channels.contains("expected 8"), "{channels}");
    }
    let (one, other) = (open("flux_small"), open("flux_small"));
    let (Model::One(model), Model::One(stranger)) = (&one.model, &other.model) else { unreachable!() };
    let text = one.input("encoder_hidden_states");
    let context = stranger.text_context(text, one.input("pooled_projections")).unwrap();
    let positions = model.positions(&ids(one.input("txt_ids")), &ids(one.input("img_ids"))).unwrap();
    let (x, t, g) = (one.input("hidden_states"), one.input("timestep"), one.input("guidance"));
    let message =
        model.forward(x, t, Some(g), &context, &positions, &mut Pass::off()).unwrap_err().to_string();
    assert!(message.contains("another model"), "{message}");
    let pooled = Tensor::zeros((2, 10), candle_core::DType::F32, &Device::Cpu).unwrap();
    let message = model.text_context(text, &pooled).unwrap_err().to_string();
    assert!(message.contains("[2, 10]") && message.contains("[1, 10]"), "{message}");
}
