//! An image model: blocks of an image stream and a text stream, then blocks of both as one sequence.

use candle_core::{Device, Result, Tensor};
use magcache_core::{Pass, Stacks};

/// The network.
#[derive(Debug)]
pub struct Flux {
    double: Vec<Double>,
    single: Vec<Single>,
}

#[derive(Debug)]
struct Double(Tensor);

#[derive(Debug)]
struct Single(Tensor);

impl Flux {
    /// A network whose weights are waves; yours come from a file.
    pub fn new(double: usize, single: usize) -> Result<Self> {
        let weight = |i: usize| {
            let at = |j: usize| ((i * 31 + j) as f32 * 0.37).sin() * 0.1;
            Tensor::from_vec((0..256).map(at).collect(), (16, 16), &Device::Cpu)
        };
        let doubles = (0..double).map(|i| weight(i).map(Double)).collect::<Result<_>>()?;
        let singles = (double..double + single).map(|i| weight(i).map(Single)).collect::<Result<_>>()?;
        Ok(Self { double: doubles, single: singles })
    }

    /// The velocity for latents `[batch, tokens, 16]` and a text of such tokens.
    pub fn forward(&self, image: &Tensor, text: &Tensor, sigma: f64, pass: &mut Pass<'_>) -> Result<Tensor> {
        let image = Stacks::default()
            .dual(&self.double, |block, image, text| block.forward(image, text, sigma))
            .joint(&self.single, |block, tokens| block.forward(tokens, sigma))
            .run(pass, (image.clone(), text.clone()))?;
        image.tanh()
    }
}

impl Double {
    fn forward(&self, image: &Tensor, text: &Tensor, sigma: f64) -> Result<(Tensor, Tensor)> {
        let asked = text.mean_keepdim(1)?.affine(0.2 + 0.2 * sigma, 0.0)?;
        let through = |x: &Tensor| x.broadcast_matmul(&self.0)?.broadcast_add(&asked)?.tanh();
        Ok(((image + through(image)?)?, (text + through(text)?)?))
    }
}

impl Single {
    fn forward(&self, tokens: &Tensor, sigma: f64) -> Result<Tensor> {
        tokens + tokens.broadcast_matmul(&self.0)?.affine(1.0, 0.1 * sigma)?.tanh()?
    }
}
