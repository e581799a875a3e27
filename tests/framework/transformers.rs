//! The transformers of Wan and Flux under caches that may skip nothing, and misuse of Flux. The recorded
//! cases in `verify` show that they equal diffusers.

use std::{fs, path::Path};

use candle_core::Result as Computed;
use magcache_models::{
    checkpoint::{Folder, WeightDtype, Weights},
    flux::{Flux2Config, Flux2Transformer, FluxConfig, FluxTransformer},
    wan::{WanConfig, WanTransformer, tiny},
};

use crate::prelude::*;

enum Model {
    Wan(WanTransformer),
    Flux(FluxTransformer),
    Flux2(Flux2Transformer),
}

/// One recorded case.
struct Case {
    model: Model,
    tensors: HashMap<String, Tensor>,
}

fn open(name: &str) -> Case {
    open_in(name, DType::F32)
}

/// Opens a case with weights and arithmetic in `dtype`.
fn open_in(name: &str, dtype: DType) -> Case {
    let Case { model, tensors } = load(name, WeightDtype::Cast(dtype));
    let model = match model {
        Model::Wan(model) => Model::Wan(model.computing_in(dtype)),
        Model::Flux(model) => Model::Flux(model.computing_in(dtype)),
        Model::Flux2(model) => Model::Flux2(model.computing_in(dtype)),
    };
    Case { model, tensors }
}

fn load(name: &str, dtype: WeightDtype) -> Case {
    if name == WAN {
        return embedded(dtype);
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden/transformers").join(name);
    let tensors = candle_core::safetensors::load(folder.join("golden.safetensors"), &Device::Cpu).unwrap();
    let config = fs::read_to_string(folder.join("config.json")).unwrap();
    let weights = Weights::open(&Folder::open(folder).unwrap(), &Device::Cpu, dtype).unwrap();
    let model = match name {
        FLUX => FluxTransformer::load(&weights, FluxConfig::from_json(&config).unwrap()).map(Model::Flux),
        _ => Flux2Transformer::load(&weights, Flux2Config::from_json(&config).unwrap()).map(Model::Flux2),
    };
    let model = model.unwrap();
    assert_eq!(weights.unused(), [""; 0], "{name}: tensors that nothing reads");
    Case { model, tensors }
}

/// The small Wan model, which has more blocks than the recorded ones, with inputs of its size.
fn embedded(dtype: WeightDtype) -> Case {
    let folder = tiny::wan21_t2v().sub("transformer");
    let config = WanConfig::from_json(&folder.read_to_string("config.json").unwrap()).unwrap();
    let waves = |shape: &[usize]| {
        let count = shape.iter().product::<usize>() as f32;
        Tensor::arange(0f32, count, &Device::Cpu).unwrap().sin().unwrap().reshape(shape).unwrap()
    };
    let tensors = HashMap::from([
        ("b1.hidden_states".to_owned(), waves(&[1, config.in_channels, 2, 4, 4])),
        ("b1.timestep".to_owned(), Tensor::new(&[700f32], &Device::Cpu).unwrap()),
        ("b1.encoder_hidden_states".to_owned(), waves(&[1, 5, config.text_dim])),
    ]);
    let weights = Weights::open(&folder, &Device::Cpu, dtype).unwrap();
    Case { model: Model::Wan(WanTransformer::load(&weights, config).unwrap()), tensors }
}

fn rows<const N: usize>(tensor: &Tensor) -> Vec<[f32; N]> {
    let tensor = if tensor.rank() == 3 { tensor.get(0).unwrap() } else { tensor.clone() };
    let rows = tensor.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap();
    rows.into_iter().map(|row| row.try_into().unwrap()).collect()
}

impl Case {
    /// An input of the case's first call.
    fn input(&self, name: &str) -> &Tensor {
        &self.tensors[&format!("b1.{name}")]
    }

    fn meta(&self) -> ModelMeta {
        match &self.model {
            Model::Wan(model) => {
                let published = meta::model("wan2.1-t2v").unwrap().clone();
                ModelMeta { profiles: (&[]).into(), ..published.with_blocks(&[model.config().num_layers]) }
            }
            Model::Flux(model) => ModelMeta { guided: true, ..model.meta().clone() },
            Model::Flux2(model) => ModelMeta { guided: true, ..model.meta().clone() },
        }
    }

    /// The case's first call with another input, and with embedded guidance if `guided`.
    fn forward(&self, x: &Tensor, guided: bool, pass: &mut Pass<'_>) -> Computed<Tensor> {
        let (timestep, text) = (self.input("timestep"), self.input("encoder_hidden_states"));
        let guidance = Tensor::full(3.5f32, 1, &Device::Cpu)?;
        let guidance = guided.then_some(&guidance);
        let ids = |name| self.input(name);
        match &self.model {
            Model::Wan(model) => model.forward(x, timestep, &model.text_context(text)?, pass),
            Model::Flux(model) => {
                let context = model.text_context(text, self.input("pooled_projections"))?;
                let positions = model.positions(&rows(ids("txt_ids")), &rows(ids("img_ids")))?;
                model.forward(x, timestep, guidance, &context, &positions, pass)
            }
            Model::Flux2(model) => {
                let context = model.text_context(text)?;
                let positions = model.positions(&rows(ids("txt_ids")), &rows(ids("img_ids")))?;
                model.forward(x, timestep, guidance, &context, &positions, pass)
            }
        }
    }

    fn plain(&self, x: &Tensor, pass: &mut Pass<'_>) -> Computed<Tensor> {
        self.forward(x, matches!(self.model, Model::Flux(_)), pass)
    }

    /// Runs a few steps and compares every output with that of the bare network.
    fn is_unchanged_by(&self, hooks: &Arc<HookRegistry>, what: &str) {
        let x = self.input("hidden_states");
        let want = self.plain(x, &mut Pass::off()).unwrap();
        let mut session = hooks.session();
        let run = trajectory();
        for step in run.steps() {
            for branch in run.branches_at(&step) {
                let mut pass = session.pass(&step, *branch);
                let y = pass.forward(x.clone(), |x, pass| self.plain(&x, pass)).unwrap();
                assert!(same_bits(&y, &want), "{}: {what}", self.meta().name);
            }
        }
    }
}

/// With both branches: the networks know nothing about guidance, and some strategies need two branches.
fn trajectory() -> Trajectory {
    guided(4)
}

const WAN: &str = "embedded";
const FLUX: &str = "flux_dev";
const FLUX2: &str = "flux2_klein";

/// The hooks of a table for a network, and the table.
fn hooks(case: &Case, keys: &str) -> Result<(Arc<HookRegistry>, String), ConfigError> {
    let text = format!("[[cache]]\n{keys}");
    Ok((build(&text, &case.meta(), &trajectory())?.registry, text))
}

#[test]
fn a_cache_that_may_skip_nothing_changes_no_bit() {
    for case in [WAN, FLUX, FLUX2].map(open) {
        for info in strategies() {
            for at in ["", "at = 'double'\n", "at = 'single'\n", "at = '1..3'\n"] {
                match hooks(&case, &format!("{at}{}", info.never)) {
                    Ok((hooks, text)) => case.is_unchanged_by(&hooks, &text),
                    Err(error) => assert!(!at.is_empty(), "{}: {error}", info.name),
                }
            }
        }
    }
}

/// As on a GPU, with candle's operations: the same network up to rounding, and every strategy runs in it.
#[test]
fn half_precision_is_the_same_network_rounded() {
    for name in [WAN, FLUX, FLUX2] {
        let exact = open(name);
        let x = exact.input("hidden_states");
        let want = exact.plain(x, &mut Pass::off()).unwrap();
        for (dtype, most) in [(DType::BF16, 2e-2), (DType::F16, 2.5e-3)] {
            let case = open_in(name, dtype);
            let got = case.plain(x, &mut Pass::off()).unwrap();
            assert_eq!(got.dtype(), DType::F32);
            let error = metrics::relative_l2(&got, &want).unwrap();
            assert!(error > 1e-5 && error < most, "{name} in {dtype:?}: {error}");
            for info in strategies() {
                let (hooks, text) = hooks(&case, info.never).unwrap();
                case.is_unchanged_by(&hooks, &text);
            }
        }
    }
}

#[test]
fn nor_does_one_around_a_module_of_every_block() {
    for case in [WAN, FLUX, FLUX2].map(open) {
        let (meta, x) = (case.meta(), case.input("hidden_states"));
        testing::check_modules(&meta, |pass| case.plain(x, pass));
        let mut built = 0;
        for module in meta.modules.iter() {
            for info in strategies() {
                let Ok((hooks, text)) = hooks(&case, &format!("at = '{module}'\n{}", info.never)) else {
                    continue;
                };
                case.is_unchanged_by(&hooks, &text);
                built += 1;
            }
        }
        assert!(built >= 2 * meta.modules.len(), "{}: {built} strategies look at the step alone", meta.name);
    }
}

#[test]
fn a_module_that_is_repeated_is_repeated_in_every_block_and_the_rest_runs() {
    // The latents are the same at both steps, but the modulation of the timestep differs, which shows whether
    // a module's input depends on it.
    for (name, blocks) in [(WAN, 6), (FLUX, 5), (FLUX2, 5)] {
        let case = open(name);
        let (meta, x) = (case.meta(), case.input("hidden_states"));
        assert_eq!(meta.blocks(), blocks);
        for module in meta.modules.iter() {
            let keys = format!("strategy = 'schedule'\nat = '{module}'\nskip = [1]");
            let mut session = hooks(&case, &keys).unwrap().0.session();
            let mut run = |step, x: &Tensor| {
                let mut pass = session.pass(&trajectory().step(step), Branch::Cond);
                case.plain(x, &mut pass).unwrap()
            };
            let dense = |x: &Tensor| case.plain(x, &mut Pass::off()).unwrap();
            let moved = (x * 0.5).unwrap();
            // The first step is computed; repeating it changes nothing on the same input, and does on another
            // one.
            assert!(same_bits(&run(0, x), &dense(x)), "{name} {module}");
            assert!(same_bits(&run(1, x), &dense(x)), "{name} {module}");
            run(0, x);
            let y = run(1, &moved);
            assert!(!same_bits(&y, &dense(&moved)) && !same_bits(&y, &dense(x)), "{name} {module}");
            assert_eq!(reused(&session, 0, Branch::Cond).len(), 2 * blocks, "{name} {module}");
        }
    }
}

#[test]
fn nor_does_any_chain_of_two() {
    for case in [WAN, FLUX, FLUX2].map(open) {
        for [outer, inner] in pairs() {
            let hooks = chain([outer, inner], |info| info.never, &case.meta(), &trajectory());
            case.is_unchanged_by(&hooks, &format!("{} around {}", outer.name, inner.name));
        }
    }
}

#[test]
fn one_cache_has_the_dual_blocks_and_another_the_single_ones() {
    let tables = "strategy = 'schedule'\nat = 'double'\nskip = [1, 3]\n\
                  [[cache]]\nstrategy = 'schedule'\nat = 'single'\nskip = [2, 3]";
    for case in [FLUX, FLUX2].map(open) {
        let x = case.input("hidden_states");
        let want = case.plain(x, &mut Pass::off()).unwrap();
        let mut session = hooks(&case, tables).unwrap().0.session();
        for step in trajectory().steps() {
            let mut pass = session.pass(&step, Branch::Cond);
            let y = pass.forward(x.clone(), |x, pass| case.plain(&x, pass)).unwrap();
            // The input is the same at every step, so reusing gives what computing would, for text and image.
            let error = (y - &want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(error < 2e-5, "{} step {}: {error}", case.meta().name, step.index);
        }
        let skipped = [0, 1].map(|hook| reused(&session, hook, Branch::Cond));
        assert_eq!(skipped, [[1, 3], [2, 3]]);
    }
}

#[test]
fn text_is_stored_only_where_something_reads_it_afterwards() {
    let width = 32 * size_of::<f32>();
    let case = open(FLUX);
    for (at, tokens) in [("double", 12 + 7), ("single", 12), ("all", 12)] {
        let keys = format!("strategy = 'schedule'\nat = '{at}'\nskip = [1]");
        let mut session = hooks(&case, &keys).unwrap().0.session();
        let mut pass = session.pass(&trajectory().step(0), Branch::Cond);
        pass.forward(case.input("hidden_states").clone(), |x, pass| case.plain(&x, pass)).unwrap();
        drop(pass);
        assert_eq!(session.slots().peak_bytes(), tokens * width, "{at}");
    }
}

#[test]
fn misuse_is_refused_with_both_values() {
    let message = |result: Computed<Tensor>| result.unwrap_err().to_string();
    for (name, guided, says) in
        [(FLUX, false, "is guidance-distilled"), (FLUX2, true, "no guidance embedder")]
    {
        let case = open(name);
        let x = case.input("hidden_states");
        let guidance = message(case.forward(x, guided, &mut Pass::off()));
        assert!(guidance.contains(says), "{guidance}");
        let short = message(case.plain(&x.narrow(1, 0, 11).unwrap(), &mut Pass::off()));
        assert!(short.contains("11 image tokens") && short.contains("ids for 7 and 12"), "{short}");
        let two = Tensor::cat(&[x, x], 0).unwrap();
        let batch = message(case.plain(&two, &mut Pass::off()));
        assert!(batch.contains("1 prompts") && batch.contains("batch of 2"), "{batch}");
        let wide = Tensor::zeros((1, 12, 9), DType::F32, &Device::Cpu).unwrap();
        let channels = message(case.plain(&wide, &mut Pass::off()));
        assert!(channels.contains("expected 16"), "{channels}");
    }
    let (one, other) = (open(FLUX), open(FLUX));
    let (Model::Flux(model), Model::Flux(stranger)) = (&one.model, &other.model) else { unreachable!() };
    let text = one.input("encoder_hidden_states");
    let context = stranger.text_context(text, one.input("pooled_projections")).unwrap();
    let positions = model.positions(&rows(one.input("txt_ids")), &rows(one.input("img_ids"))).unwrap();
    let (x, t, g) = (one.input("hidden_states"), one.input("timestep"), one.input("guidance"));
    let other_model = message(model.forward(x, t, Some(g), &context, &positions, &mut Pass::off()));
    assert!(other_model.contains("another model"), "{other_model}");
    let pooled = Tensor::zeros((2, 12), DType::F32, &Device::Cpu).unwrap();
    let batch = model.text_context(text, &pooled).unwrap_err().to_string();
    assert!(batch.contains("[2, 12]") && batch.contains("[1, 12]"), "{batch}");
}
