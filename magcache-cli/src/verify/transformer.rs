//! Transformers: every call, and what flows between the blocks; Wan's here, FLUX's in a module of its own.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use magcache_core::{BlockHook, Branch, Cx, HookRegistry, Next, Output, Pass, Signal, Step, Streams};
use magcache_models::{
    checkpoint::{Folder, WeightDtype, Weights},
    flux::{Flux2Transformer, FluxTransformer},
    wan::{TextContext, WanConfig, WanRope, WanTransformer},
};

use super::{
    case::{Call, Case},
    flux,
    modules::{ModuleObserver, Place, Seen, both_of_a_pair},
    report::CaseReport,
};
use crate::console::bad_input_at;

const CLASS: &str = "WanTransformer3DModel";

/// Names of the network's arguments.
const INPUTS: [&str; 4] =
    ["hidden_states", "timestep", "encoder_hidden_states", "encoder_hidden_states_image"];

pub(super) fn check(case: &Case) -> Result<CaseReport> {
    let mut report = CaseReport::new(case.label());
    match case.class()?.as_str() {
        CLASS => {}
        flux::CLASS_1 => return flux::check::<FluxTransformer>(case, report),
        flux::CLASS_2 => return flux::check::<Flux2Transformer>(case, report),
        class => return Ok(report.skip(format!("this build has no {class}"))),
    }
    let model = load(&case.folder)?;
    for call in case.calls() {
        if let Some(input) = call.inputs.keys().find(|name| !INPUTS.contains(&name.as_str())) {
            report.leave_out(&call.name, format!("{CLASS} has no input `{input}` in this build"));
            continue;
        }
        one(case, &model, call, &mut report).with_context(|| format!("call {:?}", call.name))?;
    }
    report.finish()
}

/// Loads the network in a folder.
pub(super) fn load(folder: &Folder) -> Result<WanTransformer> {
    let config = WanConfig::from_json(&folder.read_to_string("config.json")?)
        .map_err(|e| bad_input_at(&folder.describe(), &e))?;
    let weights = Weights::open(folder, &Device::Cpu, WeightDtype::Keep)?;
    Ok(WanTransformer::load(&weights, config)?)
}

fn one(case: &Case, model: &WanTransformer, call: &Call, report: &mut CaseReport) -> Result<()> {
    let (latents, timestep) = (case.required(call, "hidden_states")?, case.required(call, "timestep")?);
    let text = case.required(call, "encoder_hidden_states")?;
    let context = match case.input(call, "encoder_hidden_states_image")? {
        Some(image) => model.image_text_context(text, image)?,
        None => model.text_context(text)?,
    };
    let tolerance = call.tolerance();
    let sample = model.forward(latents, timestep, &context, &mut Pass::off())?;
    for (output, key) in &call.outputs {
        match output.as_str() {
            "sample" => report.tensors(&call.name, output, &sample, case.tensor(key)?, tolerance)?,
            _ => report.leave_out(key, "the network gives no such output"),
        }
    }
    let traces = case.traces(call);
    if traces.is_empty() {
        return Ok(());
    }
    let shown = inside(model, latents, timestep, &context)?;
    for (module, key) in traces {
        match shown.get(&module) {
            // The reference keeps tokens in their spatial layout: `[batch, channels, frames, rows, columns]`.
            Some(got) if module == "patch_embedding.out" => {
                let want = case.tensor(&key)?.flatten_from(2)?.transpose(1, 2)?;
                report.tensors(&call.name, &module, got, &want, tolerance)?;
            }
            Some(got) => report.tensors(&call.name, &module, got, case.tensor(&key)?, tolerance)?,
            None => report.leave_out(key, "inside a part that this build does not open"),
        }
    }
    Ok(())
}

/// Everything inside a forward that hooks and the network's public parts expose, by the reference's names.
fn inside(
    model: &WanTransformer,
    latents: &Tensor,
    timestep: &Tensor,
    context: &TextContext,
) -> Result<BTreeMap<String, Tensor>> {
    let config = model.config();
    let seen = Seen::default();
    let mut hooks = HookRegistry::builder(config.num_layers);
    for module in ["attn1", "attn2"] {
        let observer =
            ModuleObserver { first_stack: config.num_layers, names: attention, seen: Arc::clone(&seen) };
        hooks = hooks.module(module, Arc::new(observer));
    }
    for block in 0..config.num_layers {
        hooks = hooks.ring(block..block + 1, Arc::new(Observer(Arc::clone(&seen))))?;
    }
    let mut session = hooks.build().session();
    model.forward(latents, timestep, context, &mut session.pass(Step::plain(0, 1), Branch::Cond))?;
    let mut seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));

    seen.insert("text_embedder.out".to_owned(), context.text().clone());
    if let Some(image) = context.image() {
        seen.insert("image_embedder.out".to_owned(), image.clone());
    }
    let (_, _, frames, height, width) = latents.dims5()?;
    let [patch_frames, patch_height, patch_width] = config.patch_size;
    let grid = [frames / patch_frames, height / patch_height, width / patch_width];
    let rope = WanRope::new(config).table(grid, latents.device())?;
    for (name, half) in [("rope.cos", rope.cos()?), ("rope.sin", rope.sin()?)] {
        seen.insert(name.to_owned(), both_of_a_pair(&half)?.unsqueeze(0)?.unsqueeze(2)?);
    }
    Ok(seen)
}

/// Both attentions of a block.
fn attention(at: Place<'_>, x: &Streams, y: &Streams) -> candle_core::Result<Vec<(String, Tensor)>> {
    let name = |end: &str| format!("blocks.{}.{}.{end}", at.block, at.module);
    Ok(vec![(name("in"), x.image()?), (name("out"), y.image()?)])
}

/// Records the output of each block and, before the first one, its input and the signals that the model
/// offers to strategies.
#[derive(Debug)]
struct Observer(Arc<Mutex<BTreeMap<String, Tensor>>>);

impl BlockHook for Observer {
    fn call(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> candle_core::Result<Output> {
        let block = next.blocks().start;
        let mut seen = Vec::new();
        if let (0, Some(probe)) = (block, cx.probe) {
            seen.push(("temb".to_owned(), probe(Signal::TimestepEmbedding, &x)?));
            seen.push(("timestep_proj".to_owned(), probe(Signal::TimestepProjection, &x)?));
            seen.push(("blocks.0.modulated_input".to_owned(), probe(Signal::ModulatedInput, &x)?));
            seen.push(("patch_embedding.out".to_owned(), x.image()?));
        }
        let output = next.run(cx, x)?;
        seen.push((format!("blocks.{block}.out"), output.streams.image()?));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(seen);
        Ok(output)
    }
}
