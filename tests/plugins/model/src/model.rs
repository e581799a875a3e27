//! The network: a stack of blocks that take and return the tuple `(text, image)`.

use candle_core::{Result, Tensor, bail};
use magcache_core::{Pass, Role, Signal, Stacks, Streams};
use magcache_models::{checkpoint::Weights, pipeline};

use crate::HIDDEN;

/// The blocks.
#[derive(Debug)]
pub struct Mini {
    blocks: Vec<Block>,
}

#[derive(Debug)]
struct Block {
    weight: Tensor,
    modulation: f64,
}

impl Mini {
    /// Reads the blocks: `blocks.0.weight`, `blocks.1.weight`, …
    ///
    /// # Errors
    /// A tensor that is missing, or has another shape.
    pub fn load(weights: &Weights, blocks: usize) -> pipeline::Result<Self> {
        let block = |i| Block::load(&weights.pp(format!("blocks.{i}")), i);
        Ok(Self { blocks: (0..blocks).map(block).collect::<pipeline::Result<_>>()? })
    }

    /// The velocity `[batch, tokens, 16]` for latents of that shape and a text `[batch, text tokens, 16]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(
        &self,
        latents: &Tensor,
        timestep: f64,
        text: &Tensor,
        pass: &mut Pass<'_>,
    ) -> Result<Tensor> {
        let t = timestep / 1000.0;
        let signals = |signal, x: &Streams| match (signal, self.blocks.first()) {
            (Signal::ModulatedInput, Some(block)) => block.modulate(&x.image()?, t),
            _ => bail!("mini does not show {signal:?}"),
        };
        Stacks::default()
            .tuples(&self.blocks, &[Role::Text, Role::Image], |block, x| match x.as_slice() {
                [text, image] => block.forward(text, image, t),
                _ => bail!("a block was given {} tensors", x.len()),
            })
            .signals(signals)
            .run(pass, (latents.clone(), text.clone()))
    }
}

impl Block {
    fn load(weights: &Weights, i: usize) -> pipeline::Result<Self> {
        let weight = weights.get("weight", &[HIDDEN, HIDDEN])?;
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
