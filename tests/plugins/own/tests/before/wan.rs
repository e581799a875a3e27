//! A video model: blocks of one stream, which read the text.

use candle_core::{Device, Result, Tensor};

/// One network.
#[derive(Debug)]
pub struct Wan {
    blocks: Vec<Block>,
}

#[derive(Debug)]
struct Block {
    weight: Tensor,
}

impl Wan {
    /// A network whose weights are waves; yours come from a file.
    pub fn new(blocks: usize, phase: usize) -> Result<Self> {
        let block = |i: usize| {
            let at = |j: usize| ((i * 31 + j + phase) as f32 * 0.37).sin() * 0.1;
            Ok(Block { weight: Tensor::from_vec((0..256).map(at).collect(), (16, 16), &Device::Cpu)? })
        };
        Ok(Self { blocks: (0..blocks).map(block).collect::<Result<_>>()? })
    }

    /// The velocity for latents `[batch, tokens, 16]` and a text of such tokens.
    pub fn forward(&self, x: &Tensor, sigma: f64, text: &Tensor) -> Result<Tensor> {
        let mut x = x.affine(1.0, 0.1 * sigma)?;
        for block in &self.blocks {
            x = block.forward(&x, sigma, text)?;
        }
        x.tanh()
    }
}

impl Block {
    fn forward(&self, x: &Tensor, sigma: f64, text: &Tensor) -> Result<Tensor> {
        let asked = text.mean_keepdim(1)?.affine(0.2 + 0.2 * sigma, 0.0)?;
        x + x.broadcast_matmul(&self.weight)?.broadcast_add(&asked)?.tanh()?
    }
}
