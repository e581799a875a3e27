//! A small model of one's own: a stack of blocks that take and return the tuple `(text, image)`.
//!
//! The guide `docs/guide/add-a-model.md` walks through this file.

use std::borrow::Cow;

use candle_core::{Device, Result, Tensor, bail};
use magcache_core::{ModelMeta, Pass, Role, Signal, StackMeta, Streams, inventory, meta::BlockMeta};

/// Blocks of the published size.
const BLOCKS: usize = 8;
const HIDDEN: usize = 16;

/// What a block returns, in order.
const OUTPUTS: &[Role] = &[Role::Text, Role::Image];
const SIGNALS: &[Signal] = &[Signal::ModulatedInput];
const STACKS: &[StackMeta] =
    &[StackMeta { name: Cow::Borrowed("blocks"), blocks: BLOCKS, outputs: Cow::Borrowed(OUTPUTS) }];

/// What the model says about itself.
pub const META: ModelMeta = ModelMeta {
    name: Cow::Borrowed("mini"),
    summary: Cow::Borrowed("an example of a model in a crate of its own"),
    stacks: Cow::Borrowed(STACKS),
    modules: Cow::Borrowed(&[]),
    experts: Cow::Borrowed(&["transformer"]),
    guided: true,
    text_after: false,
    signals: Cow::Borrowed(SIGNALS),
    hidden_size: HIDDEN,
    profiles: Cow::Borrowed(&[]),
    origin: env!("CARGO_PKG_NAME"),
};

inventory::submit! { META }

/// The model.
#[derive(Debug)]
pub struct Mini {
    blocks: Vec<Block>,
    metas: Vec<BlockMeta>,
}

#[derive(Debug)]
struct Block {
    weight: Tensor,
    modulation: f64,
}

impl Mini {
    /// With fixed weights.
    ///
    /// Errors: none on the host.
    pub fn new() -> Result<Self> {
        let blocks = (0..BLOCKS).map(Block::new).collect::<Result<_>>()?;
        Ok(Self { blocks, metas: META.block_metas() })
    }

    /// The prediction `[batch, tokens, 16]` for latents of that shape and a text `[batch, text tokens, 16]`.
    ///
    /// Errors: shapes that do not fit.
    pub fn forward(
        &self,
        latents: &Tensor,
        timestep: f64,
        text: &Tensor,
        pass: &mut Pass<'_>,
    ) -> Result<Tensor> {
        // The pass goes around the whole forward, then around the blocks: strategies may act on either.
        pass.forward(latents.clone(), |latents, pass| {
            let t = timestep / 1000.0;
            let probe = |signal: Signal, x: &Streams| match (signal, self.blocks.first()) {
                (Signal::ModulatedInput, Some(block)) => block.modulate(&x.image()?, t),
                _ => bail!("mini does not show {signal:?}"),
            };
            let x = vec![text.clone(), latents];
            let y =
                pass.run_tuples(&self.metas, &probe, x, |i, x| match (self.blocks.get(i), x.as_slice()) {
                    (Some(block), [text, image]) => block.forward(text, image, t),
                    _ => bail!("block {i} was given {} tensors", x.len()),
                })?;
            match y.as_slice() {
                [_, image] => Ok(image.clone()),
                other => bail!("the last block gave {} tensors", other.len()),
            }
        })
    }
}

impl Block {
    fn new(i: usize) -> Result<Self> {
        let at = |j: usize| ((i * 31 + j) as f32 * 0.37).sin() * 0.1;
        let weight =
            Tensor::from_vec((0..HIDDEN * HIDDEN).map(at).collect(), (HIDDEN, HIDDEN), &Device::Cpu)?;
        Ok(Self { weight, modulation: 0.2 + 0.05 * i as f64 })
    }

    fn modulate(&self, x: &Tensor, t: f64) -> Result<Tensor> {
        x.affine(1.0 + self.modulation * t, 0.1 * t)
    }

    fn forward(&self, text: &Tensor, image: &Tensor, t: f64) -> Result<Vec<Tensor>> {
        let through = |x: &Tensor| self.modulate(x, t)?.broadcast_matmul(&self.weight)?.tanh();
        let from_text = through(&text.mean_keepdim(1)?)?;
        let new_image = (image + through(image)?)?.broadcast_add(&from_text)?;
        let new_text = (text + through(text)?)?;
        Ok(vec![new_text, new_image])
    }
}

/// Keeps this crate, and so its registration, in a binary that names nothing else of it.
pub fn link() {}
