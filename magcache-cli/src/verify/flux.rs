//! FLUX transformers of both generations: every call, and what flows between the blocks.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use magcache_core::{
    BlockHook, Branch, Cx, HookRegistry, ModelMeta, Next, Output, Pass, Signal, Step, Streams,
};
use magcache_models::{
    checkpoint::{ConfigError, Folder, WeightDtype, Weights},
    flux::{Flux2Config, Flux2Transformer, FluxConfig, FluxTransformer, JointPositions, PromptContext},
};

use super::{
    case::{Call, Case},
    modules::{ModuleObserver, Place, Seen, both_of_a_pair},
    report::CaseReport,
};
use crate::console::{bad_input, bad_input_at};

pub(super) const CLASS_1: &str = "FluxTransformer2DModel";
pub(super) const CLASS_2: &str = "Flux2Transformer2DModel";

/// Which of the [`FREQUENCIES`] frequencies of the timestep embedding torch rounds up, for each kind of CPU
/// that recordings come from.
///
/// The first call determines which ones apply to a recording; the whole case must then agree within its
/// tolerance.
const ROUNDED_UP: [&[usize]; 3] = [&[], &[12, 106], &[13, 44]];

/// Number of frequencies in the published models.
const FREQUENCIES: usize = 128;

/// Tensors, keyed by the suffix of their name.
type Named = Vec<(&'static str, Tensor)>;

/// Where the two generations differ.
pub(super) trait Network: Sized {
    const CLASS: &'static str;
    /// Names of the network's arguments.
    const INPUTS: &'static [&'static str];

    fn load(folder: &Folder) -> Result<Self>;
    fn meta(&self) -> &ModelMeta;
    fn frequencies(&self) -> usize;
    fn round_frequencies_up(&mut self, which: &[usize]) -> candle_core::Result<()>;
    fn context(&self, case: &Case, call: &Call) -> Result<PromptContext>;
    fn positions(&self, text: &Tensor, image: &Tensor) -> Result<JointPositions>;
    fn forward(&self, inputs: &Inputs<'_>, pass: &mut Pass<'_>) -> candle_core::Result<Tensor>;
    /// The recorded outputs of a single-stream block, by suffix.
    fn single(streams: &Streams) -> candle_core::Result<Named>;
}

/// The arguments of one call, prepared.
pub(super) struct Inputs<'a> {
    hidden_states: &'a Tensor,
    timestep: &'a Tensor,
    guidance: Option<&'a Tensor>,
    context: PromptContext,
    positions: JointPositions,
}

impl<'a> Inputs<'a> {
    fn of<N: Network>(case: &'a Case, model: &N, call: &Call) -> Result<Self> {
        Ok(Self {
            hidden_states: case.required(call, "hidden_states")?,
            timestep: case.required(call, "timestep")?,
            guidance: case.input(call, "guidance")?,
            context: model.context(case, call)?,
            positions: model.positions(case.required(call, "txt_ids")?, case.required(call, "img_ids")?)?,
        })
    }
}

impl Network for FluxTransformer {
    const CLASS: &'static str = CLASS_1;
    const INPUTS: &'static [&'static str] = &[
        "hidden_states",
        "encoder_hidden_states",
        "pooled_projections",
        "timestep",
        "img_ids",
        "txt_ids",
        "guidance",
    ];

    fn load(folder: &Folder) -> Result<Self> {
        let config = config(folder, FluxConfig::from_json)?;
        Ok(Self::load(&Weights::open(folder, &Device::Cpu, WeightDtype::Keep)?, config)?)
    }

    fn meta(&self) -> &ModelMeta {
        self.meta()
    }

    fn frequencies(&self) -> usize {
        FREQUENCIES
    }

    fn round_frequencies_up(&mut self, which: &[usize]) -> candle_core::Result<()> {
        self.round_frequencies_up(which)
    }

    fn context(&self, case: &Case, call: &Call) -> Result<PromptContext> {
        let pooled = case.required(call, "pooled_projections")?;
        Ok(self.text_context(case.required(call, "encoder_hidden_states")?, pooled)?)
    }

    fn positions(&self, text: &Tensor, image: &Tensor) -> Result<JointPositions> {
        Ok(self.positions(&ids(text)?, &ids(image)?)?)
    }

    fn forward(&self, inputs: &Inputs<'_>, pass: &mut Pass<'_>) -> candle_core::Result<Tensor> {
        let Inputs { hidden_states, timestep, guidance, context, positions } = inputs;
        self.forward(hidden_states, timestep, *guidance, context, positions, pass)
    }

    fn single(streams: &Streams) -> candle_core::Result<Named> {
        both(streams)
    }
}

impl Network for Flux2Transformer {
    const CLASS: &'static str = CLASS_2;
    const INPUTS: &'static [&'static str] =
        &["hidden_states", "encoder_hidden_states", "timestep", "img_ids", "txt_ids", "guidance"];

    fn load(folder: &Folder) -> Result<Self> {
        let config = config(folder, Flux2Config::from_json)?;
        Ok(Self::load(&Weights::open(folder, &Device::Cpu, WeightDtype::Keep)?, config)?)
    }

    fn meta(&self) -> &ModelMeta {
        self.meta()
    }

    fn frequencies(&self) -> usize {
        self.config().timestep_guidance_channels / 2
    }

    fn round_frequencies_up(&mut self, which: &[usize]) -> candle_core::Result<()> {
        self.round_frequencies_up(which)
    }

    fn context(&self, case: &Case, call: &Call) -> Result<PromptContext> {
        Ok(self.text_context(case.required(call, "encoder_hidden_states")?)?)
    }

    fn positions(&self, text: &Tensor, image: &Tensor) -> Result<JointPositions> {
        Ok(self.positions(&ids(text)?, &ids(image)?)?)
    }

    fn forward(&self, inputs: &Inputs<'_>, pass: &mut Pass<'_>) -> candle_core::Result<Tensor> {
        let Inputs { hidden_states, timestep, guidance, context, positions } = inputs;
        self.forward(hidden_states, timestep, *guidance, context, positions, pass)
    }

    fn single(streams: &Streams) -> candle_core::Result<Named> {
        match streams {
            Streams::Joint { tokens, .. } => Ok(vec![("out", tokens.clone())]),
            _ => candle_core::bail!("a single-stream block gave no joint sequence"),
        }
    }
}

fn config<C>(folder: &Folder, parse: impl Fn(&str) -> Result<C, ConfigError>) -> Result<C> {
    parse(&folder.read_to_string("config.json")?).map_err(|e| bad_input_at(&folder.describe(), &e))
}

/// Ids `[tokens, axes]`, or `[batch, tokens, axes]`, of which the reference reads only the first sample.
fn ids<const N: usize>(tensor: &Tensor) -> Result<Vec<[f32; N]>> {
    let tensor = if tensor.rank() == 3 { tensor.get(0)? } else { tensor.clone() };
    let rows: Vec<Vec<f32>> = tensor.to_dtype(DType::F32)?.to_vec2()?;
    let id = |row: Vec<f32>| {
        let wrong = |row: Vec<f32>| bad_input(format!("an id of {} axes, expected {N}", row.len()));
        row.try_into().map_err(wrong)
    };
    rows.into_iter().map(id).collect()
}

pub(super) fn check<N: Network>(case: &Case, mut report: CaseReport) -> Result<CaseReport> {
    let model = network::<N>(case, &mut report)?;
    for call in case.calls() {
        if let Some(input) = call.inputs.keys().find(|name| !N::INPUTS.contains(&name.as_str())) {
            report.leave_out(&call.name, format!("{} has no input `{input}` in this build", N::CLASS));
            continue;
        }
        one(case, &model, call, &mut report).with_context(|| format!("call {:?}", call.name))?;
    }
    report.finish()
}

/// The network, with its frequencies rounded as in the first call.
fn network<N: Network>(case: &Case, report: &mut CaseReport) -> Result<N> {
    let model = N::load(&case.folder)?;
    let first = case.calls().iter().find_map(|call| Some((call, call.outputs.get("sample")?)));
    let Some((call, key)) = first.filter(|_| model.frequencies() == FREQUENCIES) else { return Ok(model) };
    let run = |which: &[usize]| {
        let mut model = N::load(&case.folder)?;
        model.round_frequencies_up(which)?;
        let got = model.forward(&Inputs::of(case, &model, call)?, &mut Pass::off())?;
        Ok((model, got))
    };
    like_recorded(report, run, case.tensor(key)?)
}

/// The result of `run` with the frequencies rounded as on the CPU that recorded the case: the one nearest to
/// `want`.
pub(super) fn like_recorded<T>(
    report: &mut CaseReport,
    run: impl Fn(&[usize]) -> Result<(T, Tensor)>,
    want: &Tensor,
) -> Result<T> {
    let [nearest, others @ ..] = ROUNDED_UP;
    let (mut best, got) = run(nearest)?;
    if got.dims() != want.dims() {
        // The comparison itself will report it.
        return Ok(best);
    }
    let error =
        |got: &Tensor| -> Result<f32> { Ok((got - want)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?) };
    let (mut least, mut rounded) = (error(&got)?, nearest);
    for which in others {
        let (other, got) = run(which)?;
        let error = error(&got)?;
        if error < least {
            (best, least, rounded) = (other, error, which);
        }
    }
    if let [a, b] = rounded {
        report.note(format!(
            "frequencies {a} and {b} of the timestep are rounded up, as on the CPU of the recording"
        ));
    }
    Ok(best)
}

fn one<N: Network>(case: &Case, model: &N, call: &Call, report: &mut CaseReport) -> Result<()> {
    let inputs = Inputs::of(case, model, call)?;
    let tolerance = call.tolerance();
    let sample = model.forward(&inputs, &mut Pass::off())?;
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
    let shown = inside(model, &inputs)?;
    for (module, key) in traces {
        match shown.get(&module) {
            Some(got) => report.tensors(&call.name, &module, got, case.tensor(&key)?, tolerance)?,
            None => report.leave_out(key, "inside a part that this build does not open"),
        }
    }
    Ok(())
}

/// Everything inside a forward that hooks and the network's public parts expose, by the reference's names.
fn inside<N: Network>(model: &N, inputs: &Inputs<'_>) -> Result<BTreeMap<String, Tensor>> {
    let meta = model.meta();
    let dual = meta.stacks.first().map_or(0, |stack| stack.blocks);
    let seen = Seen::default();
    let mut hooks = HookRegistry::builder(meta.blocks());
    for module in meta.modules.iter() {
        let observer = ModuleObserver { first_stack: dual, names: attention, seen: Arc::clone(&seen) };
        hooks = hooks.module(module, Arc::new(observer));
    }
    for block in meta.whole() {
        let name = match block.checked_sub(dual) {
            None => format!("transformer_blocks.{block}"),
            Some(single) => format!("single_transformer_blocks.{single}"),
        };
        let outputs = if block < dual { both } else { N::single };
        let signals = if block == 0 { meta.signals.to_vec() } else { Vec::new() };
        let observer = Observer { name, outputs, signals, seen: Arc::clone(&seen) };
        hooks = hooks.ring(block..block + 1, Arc::new(observer))?;
    }
    let mut session = hooks.build().session();
    model.forward(inputs, &mut session.pass(Step::plain(0, 1), Branch::Cond))?;
    let mut seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
    let rope = inputs.positions.joint();
    seen.insert("rope.cos".to_owned(), both_of_a_pair(&rope.cos()?)?);
    seen.insert("rope.sin".to_owned(), both_of_a_pair(&rope.sin()?)?);
    Ok(seen)
}

/// The attention of a dual-stream block, or of a single-stream block, which reads the norm's output.
fn attention(at: Place<'_>, x: &Streams, y: &Streams) -> candle_core::Result<Vec<(String, Tensor)>> {
    let Place { block, first_stack, module } = at;
    let Some(single) = block.checked_sub(first_stack) else {
        let name = |end: &str| format!("transformer_blocks.{block}.{end}");
        let named = both(y)?.into_iter().map(|(end, tensor)| (name(&format!("{module}.{end}")), tensor));
        let text = x.text()?.map(|text| (name("modulated_context"), text));
        return Ok(named.chain(text).collect());
    };
    let name = |end: &str| format!("single_transformer_blocks.{single}.{end}");
    match (x, y) {
        (Streams::Joint { tokens: x, .. }, Streams::Joint { tokens: y, .. }) => {
            Ok(vec![(name("norm.out"), x.clone()), (name(&format!("{module}.out")), y.clone())])
        }
        _ => candle_core::bail!("the attention of a single-stream block gave no joint sequence"),
    }
}

/// Image and text, by suffix.
fn both(streams: &Streams) -> candle_core::Result<Named> {
    let text = streams.text()?.map(|text| ("context_out", text));
    Ok(text.into_iter().chain([("out", streams.image()?)]).collect())
}

/// Records the output of each block and, before the first one, its input and the signals that the model
/// offers to strategies.
#[derive(Debug)]
struct Observer {
    name: String,
    outputs: fn(&Streams) -> candle_core::Result<Named>,
    /// The signals to request before this block.
    signals: Vec<Signal>,
    seen: Arc<Mutex<BTreeMap<String, Tensor>>>,
}

impl BlockHook for Observer {
    fn call(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> candle_core::Result<Output> {
        let mut seen = Vec::new();
        if let (false, Some(probe)) = (self.signals.is_empty(), cx.probe) {
            for signal in &self.signals {
                let name = match signal {
                    Signal::ModulatedInput => "transformer_blocks.0.modulated_input",
                    Signal::TimestepEmbedding => "temb",
                    Signal::TimestepProjection => "double_stream_modulation_img.out",
                };
                seen.push((name.to_owned(), probe(*signal, &x)?));
            }
            seen.push(("x_embedder.out".to_owned(), x.image()?));
            seen.extend(x.text()?.map(|text| ("context_embedder.out".to_owned(), text)));
        }
        let output = next.run(cx, x)?;
        let outputs = (self.outputs)(&output.streams)?.into_iter();
        seen.extend(outputs.map(|(rest, tensor)| (format!("{}.{rest}", self.name), tensor)));
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).extend(seen);
        Ok(output)
    }
}
