//! Tiny transformers whose outputs depend on the step, on the content and on every block.

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Result, Tensor, bail};

use crate::{Branch, ModelMeta, Pass, Role, Signal, StackMeta, Stacks, Step, Streams};

const TOKENS: usize = 6;
const TEXT_TOKENS: usize = 3;
const CHANNELS: usize = 8;

/// A fault to inject into a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Return an error.
    Error,
    /// Panic.
    Panic,
    /// Return NaN.
    Nan,
}

/// One execution of one block.
#[derive(Clone, Debug)]
pub struct BlockRun {
    /// The block.
    pub block: usize,
    /// Its input.
    pub input: Streams,
    /// Its output.
    pub output: Streams,
}

/// The roles of a tuple in this order.
fn roles(order: [Role; 2]) -> &'static [Role] {
    match order {
        [Role::Text, Role::Image] => &[Role::Text, Role::Image],
        _ => &[Role::Image, Role::Text],
    }
}

/// A toy transformer. Shared like a real one: `forward` takes `&self`.
#[derive(Debug)]
pub struct Toy {
    meta: ModelMeta,
    dual: usize,
    /// The order in which the dual blocks take and return their tuple.
    order: [Role; 2],
    dtype: DType,
    tokens: usize,
    fault: Mutex<Option<(usize, Fault)>>,
    ran: Mutex<Vec<BlockRun>>,
}

impl Toy {
    /// `blocks` blocks of one image stream.
    pub fn image(blocks: usize) -> Self {
        let meta = ModelMeta::of("toy-image", env!("CARGO_PKG_NAME")).signals(&Signal::ALL).meta();
        let meta = meta.with_blocks(&[blocks]);
        Self {
            meta,
            dual: 0,
            order: [Role::Text, Role::Image],
            dtype: DType::F32,
            tokens: TOKENS,
            fault: Mutex::default(),
            ran: Mutex::default(),
        }
    }

    /// `dual` blocks that take and return a tuple in `order`, then `joint` blocks on one sequence, as in
    /// Flux.
    pub fn dual_joint(dual: usize, joint: usize, order: [Role; 2]) -> Self {
        let toy = Self::image(0);
        let stack = |name: &'static str, blocks| StackMeta { name, blocks, outputs: roles(order) };
        let stacks = [stack("dual", dual), stack("joint", joint)].into_iter().filter(|s| s.blocks > 0);
        let meta = ModelMeta {
            name: "toy-dual-joint".into(),
            stacks: stacks.collect::<Vec<_>>().into(),
            always_run: 0,
            ..toy.meta
        };
        Self { meta, dual, order, ..toy }
    }

    /// The same model whose metadata claims `order`, whatever its blocks do.
    #[must_use]
    pub fn claiming(mut self, order: [Role; 2]) -> Self {
        for stack in self.meta.stacks.to_mut() {
            stack.outputs = roles(order);
        }
        self
    }

    /// The same model on latents of the given dtype.
    #[must_use]
    pub fn with_dtype(self, dtype: DType) -> Self {
        Self { dtype, ..self }
    }

    /// The same model on latents with the given number of tokens.
    #[must_use]
    pub fn with_tokens(self, tokens: usize) -> Self {
        Self { tokens, ..self }
    }

    /// Its metadata.
    pub fn meta(&self) -> &ModelMeta {
        &self.meta
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.meta.blocks()
    }

    /// Makes a block fail from now on; `None` removes the fault.
    pub fn set_fault(&self, fault: Option<(usize, Fault)>) {
        *lock(&self.fault) = fault;
    }

    /// Takes the executions since the last call, in order.
    pub fn take_ran(&self) -> Vec<BlockRun> {
        std::mem::take(&mut *lock(&self.ran))
    }

    /// Latents `[1, tokens, channels]` of the request `seed` at `step`; they change slowly from step to step.
    pub fn latents(&self, seed: u64, step: &Step) -> Result<Tensor> {
        let phase = seed as f64 * 0.37 + step.sigma * 0.5;
        waves(self.tokens, phase, 1.0)?.to_dtype(self.dtype)
    }

    /// One forward; returns the prediction in the shape of the latents.
    pub fn forward(
        &self,
        latents: &Tensor,
        step: &Step,
        branch: Branch,
        pass: &mut Pass<'_>,
    ) -> Result<Tensor> {
        pass.forward(latents.clone(), |latents, pass| {
            let probe = |signal: Signal, x: &Streams| signal_of(signal, x, step);
            let x = self.embed(&latents, branch)?;
            let y = pass.run(self.blocks(), &probe, x, |i, x| self.block(i, x, step, branch))?;
            Self::readout(&y)
        })
    }

    /// The same forward with every block taking and returning a tuple ([`Stacks::tuples`]).
    pub fn forward_tuples(
        &self,
        latents: &Tensor,
        step: &Step,
        branch: Branch,
        pass: &mut Pass<'_>,
    ) -> Result<Tensor> {
        let blocks: Vec<usize> = (0..self.blocks()).collect();
        let (mut rest, mut stacks) = (blocks.as_slice(), Stacks::default());
        for stack in self.meta.stacks.iter() {
            let (own, later) = rest.split_at(stack.blocks);
            rest = later;
            stacks = stacks
                .tuples(own, stack.outputs, |i, x| self.block_tuple(*i, &x, gain_of(*i, step), step, branch));
        }
        let signals = |signal, x: &Streams| signal_of(signal, x, step);
        let y = stacks.signals(signals).run_streams(pass, self.embed(latents, branch)?)?;
        Self::readout(&y)
    }

    /// The input of block 0.
    pub(super) fn embed(&self, latents: &Tensor, branch: Branch) -> Result<Streams> {
        let image = latents.affine(0.9, 0.05)?;
        if !self.is_dual() {
            return Ok(Streams::Image(image));
        }
        let text = waves(TEXT_TOKENS, context(branch), 0.5)?.to_dtype(image.dtype())?;
        Ok(Streams::Dual { image, text })
    }

    /// The prediction from the output of the last block.
    pub(super) fn readout(y: &Streams) -> Result<Tensor> {
        y.image()?.affine(0.8, 0.01)
    }

    fn is_dual(&self) -> bool {
        self.meta.stacks.iter().any(|s| s.outputs.len() == 2)
    }

    fn block(&self, i: usize, x: Streams, step: &Step, branch: Branch) -> Result<Streams> {
        let fault = lock(&self.fault).filter(|(block, _)| *block == i).map(|(_, fault)| fault);
        match fault {
            Some(Fault::Error) => bail!("block {i} was told to fail"),
            Some(Fault::Panic) => panic!("block {i} was told to panic"),
            _ => {}
        }
        let gain = gain_of(i, step);
        let input = x.clone();
        let y = if !self.is_dual() {
            x.map_image(|x| mix(x, &x.mean_keepdim(1)?, gain, 0.3 * step.sigma + context(branch)))?
        } else if i < self.dual {
            let Some(stack) = self.meta.stacks.first() else { bail!("a toy without blocks") };
            let tuple = self.block_tuple(i, &x.into_outputs(stack.outputs)?, gain, step, branch)?;
            Streams::from_outputs(stack.outputs, tuple)?
        } else {
            x.map_joint(|x| mix(x, &x.mean_keepdim(1)?, gain, 0.3 * step.sigma))?
        };
        let y = if fault == Some(Fault::Nan) { y.map(|t| t.affine(f64::NAN, 0.0))? } else { y };
        lock(&self.ran).push(BlockRun { block: i, input, output: y.clone() });
        Ok(y)
    }

    /// A block as a third party would write it: a tuple in, a tuple out, in its own order.
    fn block_tuple(
        &self,
        i: usize,
        tuple: &[Tensor],
        gain: f64,
        step: &Step,
        branch: Branch,
    ) -> Result<Vec<Tensor>> {
        let (image, text) = match (tuple, self.order[0]) {
            ([image], _) => {
                let shift = 0.3 * step.sigma + context(branch);
                return Ok(vec![mix(image, &image.mean_keepdim(1)?, gain, shift)?]);
            }
            ([text, image], Role::Text) | ([image, text], Role::Image) => (image, text),
            _ => bail!("block {i} was given {} tensors", tuple.len()),
        };
        let (image, text) = if i < self.dual {
            let y = mix(image, &text.mean_keepdim(1)?, gain, 0.3 * step.sigma)?;
            (y, mix(text, &image.mean_keepdim(1)?, gain * 0.5, -0.2 * step.sigma)?)
        } else {
            let x = Tensor::cat(&[text, image], 1)?;
            let y = mix(&x, &x.mean_keepdim(1)?, gain, 0.3 * step.sigma)?;
            let n = text.dim(1)?;
            (y.narrow(1, n, image.dim(1)?)?, y.narrow(1, 0, n)?)
        };
        Ok(if self.order[0] == Role::Text { vec![text, image] } else { vec![image, text] })
    }
}

/// The weight of a block of an expert.
fn gain_of(i: usize, step: &Step) -> f64 {
    0.6 + 0.07 * i as f64 + 0.2 * f64::from(step.expert.0)
}

/// `x + 0.1·tanh(gain·x + shift + 0.5·other)`: nonlinear, and different for every block.
fn mix(x: &Tensor, other: &Tensor, gain: f64, shift: f64) -> Result<Tensor> {
    let h = x.affine(gain, shift)?.broadcast_add(&(other * 0.5)?)?.tanh()?;
    x + (h * 0.1)?
}

fn signal_of(signal: Signal, x: &Streams, step: &Step) -> Result<Tensor> {
    let embedding = |n: usize| -> Result<Tensor> {
        let values: Vec<f32> = (0..n).map(|i| (step.sigma as f32 * (1.0 + i as f32)).cos() + 1.5).collect();
        Tensor::from_vec(values, (1, n), &Device::Cpu)
    };
    match signal {
        Signal::ModulatedInput => x.image()?.affine(1.0 + 0.3 * step.sigma, 0.1 * step.sigma),
        Signal::TimestepEmbedding => embedding(CHANNELS),
        Signal::TimestepProjection => embedding(6 * CHANNELS),
        Signal::Latents => x.image()?.transpose(1, 2)?.unsqueeze(2),
    }
}

/// The contribution of a branch's prompt.
fn context(branch: Branch) -> f64 {
    match branch {
        Branch::Cond | Branch::Batched => 0.3,
        Branch::Uncond => 0.1,
        Branch::Other(n) => 0.5 + 0.1 * f64::from(n),
    }
}

fn waves(tokens: usize, phase: f64, scale: f64) -> Result<Tensor> {
    let at = |i: usize| ((i as f64 * 0.7 + phase).sin() * scale + 0.2 * (i as f64 * 0.13).cos()) as f32;
    Tensor::from_vec((0..tokens * CHANNELS).map(at).collect(), (1, tokens, CHANNELS), &Device::Cpu)
}

/// A block that panics holds no lock, so the data behind a poisoned lock is still consistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
