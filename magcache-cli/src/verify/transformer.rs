//! Transformers: every call, and what flows between the blocks. What is a family's own is in its module.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use candle_core::Tensor;
use magcache_core::{
    BlockHook, Branch, Cx, HookRegistry, ModelMeta, Next, Output, Pass, Signal, Step, Streams,
};
use magcache_models::checkpoint::{ConfigError, Folder};

use super::{
    call::Call,
    case::{Case, Named},
    report::CaseReport,
    setting::Setting,
};
use crate::console::bad_input_at;

/// A call whose inputs are prepared.
pub(super) type Forward<'a> = Box<dyn Fn(&mut Pass<'_>) -> candle_core::Result<Tensor> + 'a>;

/// What a hook sees at one place, with the reference's names.
pub(super) type Shown = Vec<(String, Tensor)>;

/// Names what entered and left a block or a module.
type Names = fn(Place<'_>, &Streams, &Streams) -> candle_core::Result<Shown>;

/// The sizes of the network in a folder.
pub(super) fn config<C>(folder: &Folder, parse: impl Fn(&str) -> Result<C, ConfigError>) -> Result<C> {
    parse(&folder.read_to_string("config.json")?).map_err(|e| bad_input_at(&folder.describe(), &e))
}

/// A transformer, and the reference's names for what it shows.
pub(super) trait Network: Sized + 'static {
    const CLASS: &'static str;
    /// Names of its inputs.
    const INPUTS: &'static [&'static str];
    /// Names of its signals and of the streams that enter its first block, `image` and `text`.
    const BEFORE_BLOCKS: Before;

    fn load(folder: &Folder, on: &Setting) -> Result<Self>;

    /// The network that a case was recorded with.
    fn of_case(case: &Case, _: &mut CaseReport) -> Result<Self> {
        Self::load(&case.folder, &case.on)
    }

    fn meta(&self) -> Result<ModelMeta>;
    fn prepare<'a>(&'a self, call: Call<'a>) -> Result<Forward<'a>>;
    /// Names what entered and left a block or a module.
    fn names(at: Place<'_>, x: &Streams, y: &Streams) -> candle_core::Result<Shown>;
    /// Adds what is computed outside the blocks to what was seen inside.
    fn add_outside(&self, call: Call<'_>, seen: &mut Named) -> Result<()>;
}

/// The reference's names for tensors before the first block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    pub(super) image: &'static str,
    pub(super) text: &'static str,
    pub(super) modulated_input: &'static str,
    pub(super) timestep_projection: &'static str,
}

/// Identifies a block, or a module inside it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) block: usize,
    /// Number of blocks in the model's first stack.
    pub(super) first_stack: usize,
    pub(super) module: Option<&'a str>,
}

/// Compares every call of a network.
pub(super) fn calls<N: Network>(case: &Case, report: &mut CaseReport) -> Result<()> {
    let model = N::of_case(case, report)?;
    case.compare_calls(report, |call, report| {
        if call.is_unknown(report, N::INPUTS, N::CLASS) {
            return Ok(());
        }
        let forward = model.prepare(call)?;
        let sample = forward(&mut Pass::off())?;
        call.compare(report, call.tolerance(), "the network gives no such output", |output| {
            Ok((output == "sample").then(|| sample.clone()))
        })?;
        // What is inside is compared in f32 alone, of which it was recorded.
        if call.traces().is_empty() || case.on.half.is_some() {
            return Ok(());
        }
        call.compare_inside(report, call.tolerance(), &inside(&model, call, &forward)?)
    })
}

/// Everything inside a forward that hooks and the network's public parts expose, by the reference's names.
pub(super) fn inside<N: Network>(model: &N, call: Call<'_>, forward: &Forward<'_>) -> Result<Named> {
    let meta = model.meta()?;
    let observer = Arc::new(Observer {
        first_stack: meta.stacks.first().map_or(0, |stack| stack.blocks),
        signals: meta.signals.to_vec(),
        before: N::BEFORE_BLOCKS,
        names: N::names,
        seen: Mutex::default(),
    });
    let mut hooks = HookRegistry::builder(meta.blocks());
    for module in meta.modules.iter() {
        hooks = hooks.module(module, Arc::clone(&observer) as Arc<dyn BlockHook>);
    }
    for block in meta.whole() {
        hooks = hooks.ring(block..block + 1, Arc::clone(&observer) as Arc<dyn BlockHook>)?;
    }
    let mut session = hooks.build().session();
    forward(&mut session.pass(&Step::plain(0, 1), Branch::Cond))?;
    let mut seen = std::mem::take(&mut *observer.seen.lock().unwrap_or_else(PoisonError::into_inner));
    model.add_outside(call, &mut seen)?;
    Ok(seen)
}

/// Records what enters and leaves blocks and modules and, before the first block, its input and the signals
/// that the model offers to strategies.
#[derive(Debug)]
struct Observer {
    first_stack: usize,
    signals: Vec<Signal>,
    before: Before,
    names: Names,
    seen: Mutex<Named>,
}

impl Observer {
    fn before_blocks(&self, cx: &Cx<'_>, x: &Streams) -> candle_core::Result<Shown> {
        let mut named = match x {
            Streams::Dual { image, text } => {
                vec![(self.before.image, image.clone()), (self.before.text, text.clone())]
            }
            _ => vec![(self.before.image, x.sequence()?)],
        };
        let Some(probe) = cx.probe else { candle_core::bail!("the model shows no signals") };
        for signal in &self.signals {
            let name = match signal {
                Signal::ModulatedInput => self.before.modulated_input,
                Signal::TimestepEmbedding => "temb",
                Signal::TimestepProjection => self.before.timestep_projection,
                // What the case gives.
                Signal::Latents => continue,
            };
            named.push((name, probe(*signal, x)?));
        }
        Ok(named.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect())
    }
}

impl BlockHook for Observer {
    fn call(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> candle_core::Result<Output> {
        let (block, entered) = (next.blocks().start, x.clone());
        let module = cx.module.cloned();
        let mut named = match (block, &module) {
            (0, None) => self.before_blocks(cx, &x)?,
            _ => Vec::new(),
        };
        let output = next.run(cx, x)?;
        let place = Place { block, first_stack: self.first_stack, module: module.as_deref() };
        named.extend((self.names)(place, &entered, &output.streams)?);
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).extend(named);
        Ok(output)
    }
}

/// The reference repeats a pair's angle for both of its channels: `[tokens, pairs]` becomes
/// `[tokens, 2 * pairs]`.
pub(super) fn both_of_a_pair(half: &Tensor) -> candle_core::Result<Tensor> {
    let (tokens, pairs) = half.dims2()?;
    half.unsqueeze(2)?.broadcast_as((tokens, pairs, 2))?.reshape((tokens, 2 * pairs))
}
