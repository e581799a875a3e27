//! The layers of the three networks, up to the last one that the metric looks at.

use candle_core::Tensor;
use magcache_models::checkpoint::{CheckpointError, Weights};

/// A network as torchvision has it, cut into slices; the metric compares what leaves each slice.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) name: &'static str,
    pub(super) slices: &'static [&'static [Layer]],
}

/// A layer; `at` is its place in torchvision's `features`, by which its tensors are named.
#[derive(Clone, Copy, Debug)]
pub(super) enum Layer {
    /// A convolution with its `ReLU`.
    Conv { at: usize, out: usize, kernel: usize, stride: usize, padding: usize },
    /// Maxima over windows two pixels apart. Where `is_ceil`, also over a window that begins inside and ends
    /// outside.
    Pool { kernel: usize, is_ceil: bool },
    /// `SqueezeNet`'s module: few channels, then `expand` from one pixel and as many from 3 x 3.
    Fire { at: usize, squeeze: usize, expand: usize },
}

/// Of as many pixels as it gets.
const fn conv(at: usize, out: usize, kernel: usize) -> Layer {
    Layer::Conv { at, out, kernel, stride: 1, padding: kernel / 2 }
}

const fn fire(at: usize, squeeze: usize, expand: usize) -> Layer {
    Layer::Fire { at, squeeze, expand }
}

/// Distance of the windows of every pooling layer.
const POOL_STRIDE: usize = 2;

const POOL_2: Layer = Layer::Pool { kernel: 2, is_ceil: false };
const POOL_3: Layer = Layer::Pool { kernel: 3, is_ceil: false };
const POOL_3_CEIL: Layer = Layer::Pool { kernel: 3, is_ceil: true };

const ALEX: Network = Network {
    name: "alex",
    slices: &[
        &[Layer::Conv { at: 0, out: 64, kernel: 11, stride: 4, padding: 2 }],
        &[POOL_3, conv(3, 192, 5)],
        &[POOL_3, conv(6, 384, 3)],
        &[conv(8, 256, 3)],
        &[conv(10, 256, 3)],
    ],
};

const VGG: Network = Network {
    name: "vgg",
    slices: &[
        &[conv(0, 64, 3), conv(2, 64, 3)],
        &[POOL_2, conv(5, 128, 3), conv(7, 128, 3)],
        &[POOL_2, conv(10, 256, 3), conv(12, 256, 3), conv(14, 256, 3)],
        &[POOL_2, conv(17, 512, 3), conv(19, 512, 3), conv(21, 512, 3)],
        &[POOL_2, conv(24, 512, 3), conv(26, 512, 3), conv(28, 512, 3)],
    ],
};

const SQUEEZE: Network = Network {
    name: "squeeze",
    slices: &[
        &[Layer::Conv { at: 0, out: 64, kernel: 3, stride: 2, padding: 0 }],
        &[POOL_3_CEIL, fire(3, 16, 64), fire(4, 16, 64)],
        &[POOL_3_CEIL, fire(6, 32, 128), fire(7, 32, 128)],
        &[POOL_3_CEIL, fire(9, 48, 192)],
        &[fire(10, 48, 192)],
        &[fire(11, 64, 256)],
        &[fire(12, 64, 256)],
    ],
};

impl Network {
    /// The network that these are the tensors of, told by what distinguishes the three; the shapes of all
    /// tensors are checked as they are read.
    pub(super) fn of(weights: &Weights) -> Result<&'static Self, CheckpointError> {
        let [.., kernel] = weights.axes::<4>("net.slice1.0.weight")?;
        let is_squeeze = weights.contains("net.slice2.3.squeeze.weight");
        Ok(match kernel {
            11 => &ALEX,
            _ if is_squeeze => &SQUEEZE,
            _ => &VGG,
        })
    }

    /// The smallest number of pixels on a side that every layer has an output for.
    pub(super) fn side(&self) -> usize {
        self.slices.iter().copied().flatten().rev().fold(1, |pixels, layer| layer.input(pixels))
    }
}

impl Layer {
    /// The fewest pixels on a side that it makes `output` pixels of.
    fn input(&self, output: usize) -> usize {
        match *self {
            Self::Conv { kernel, stride, padding, .. } => (output - 1) * stride + kernel - 2 * padding,
            Self::Pool { kernel, is_ceil } => (output - 1) * POOL_STRIDE + kernel - usize::from(is_ceil),
            Self::Fire { .. } => output,
        }
    }
}

/// A slice with its weights.
#[derive(Clone, Debug)]
pub(super) struct Slice(Vec<Loaded>);

#[derive(Clone, Debug)]
enum Loaded {
    Conv(Conv),
    Pool { kernel: usize, is_ceil: bool },
    Fire { squeeze: Conv, expand: [Conv; 2] },
}

/// A convolution with its `ReLU`.
#[derive(Clone, Debug)]
struct Conv {
    /// `[out, in, kernel, kernel]`.
    weight: Tensor,
    /// `[1, out, 1, 1]`.
    bias: Tensor,
    stride: usize,
    padding: usize,
}

impl Slice {
    /// The slice's `layers` from its module; `channels` are those that enter, and then those that leave.
    pub(super) fn load(
        layers: &[Layer],
        weights: &Weights,
        channels: &mut usize,
    ) -> Result<Self, CheckpointError> {
        let load = |layer: &Layer| Loaded::load(*layer, weights, channels);
        layers.iter().map(load).collect::<Result<_, _>>().map(Self)
    }

    /// `[batch, channels, height, width]`.
    pub(super) fn forward(&self, input: Tensor) -> candle_core::Result<Tensor> {
        self.0.iter().try_fold(input, |x, layer| layer.forward(&x))
    }
}

impl Loaded {
    fn load(layer: Layer, weights: &Weights, channels: &mut usize) -> Result<Self, CheckpointError> {
        Ok(match layer {
            Layer::Conv { at, out, kernel, stride, padding } => {
                let conv = Conv::load(&weights.pp(at), [out, *channels, kernel], (stride, padding))?;
                *channels = out;
                Self::Conv(conv)
            }
            Layer::Pool { kernel, is_ceil } => Self::Pool { kernel, is_ceil },
            Layer::Fire { at, squeeze, expand } => {
                let conv = |name: &str, [out, within, kernel]: [usize; 3]| {
                    Conv::load(&weights.pp(at).pp(name), [out, within, kernel], (1, kernel / 2))
                };
                let fire = Self::Fire {
                    squeeze: conv("squeeze", [squeeze, *channels, 1])?,
                    expand: [
                        conv("expand1x1", [expand, squeeze, 1])?,
                        conv("expand3x3", [expand, squeeze, 3])?,
                    ],
                };
                *channels = 2 * expand;
                fire
            }
        })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Conv(conv) => conv.forward(x),
            Self::Pool { kernel, is_ceil } => {
                // Behind a ReLU nothing is below 0, so that zeros outside change no maximum.
                let outside =
                    |pixels: usize| usize::from(*is_ceil && pixels.abs_diff(*kernel) % POOL_STRIDE == 1);
                let (.., height, width) = x.dims4()?;
                let x = x.pad_with_zeros(2, 0, outside(height))?.pad_with_zeros(3, 0, outside(width))?;
                x.max_pool2d_with_stride(*kernel, POOL_STRIDE)
            }
            Self::Fire { squeeze, expand: [one, three] } => {
                let x = squeeze.forward(x)?;
                Tensor::cat(&[one.forward(&x)?, three.forward(&x)?], 1)
            }
        }
    }
}

impl Conv {
    /// Of these channels out, channels in and pixels on a side of the kernel.
    fn load(
        weights: &Weights,
        [out, within, kernel]: [usize; 3],
        (stride, padding): (usize, usize),
    ) -> Result<Self, CheckpointError> {
        let weight = weights.get_f32("weight", &[out, within, kernel, kernel])?;
        let bias = weights.get_f32("bias", &[out])?.reshape((1, out, 1, 1))?;
        Ok(Self { weight, bias, stride, padding })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        x.conv2d(&self.weight, self.padding, self.stride, 1, 1)?.broadcast_add(&self.bias)?.relu()
    }
}
