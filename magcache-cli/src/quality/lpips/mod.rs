//! LPIPS: Zhang et al., *The Unreasonable Effectiveness of Deep Features as a Perceptual Metric* (2018).
//!
//! Equal to version 0.1 of `lpips.LPIPS` (Python, package `lpips` 0.1.4) with any of its three networks. The
//! weights are not part of the program; the user's file is that class's `state_dict()`.

mod network;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use magcache_models::checkpoint::{CheckpointError, Folder, WeightDtype, Weights};

use self::network::{Network, Slice};
use super::{QualityError, Scores};

/// What the package adds to the norm of a pixel's features before it divides by it.
const EPSILON: f64 = 1e-10;

/// The metric with its weights: 0 for equal frames, the larger the less alike they look.
#[derive(Clone, Debug)]
pub struct Lpips {
    network: &'static Network,
    /// `[1, 3, 1, 1]` each, of pixels in -1..=1.
    shift: Tensor,
    scale: Tensor,
    slices: Vec<Slice>,
    /// A weight `[1, channels, 1, 1]` for each slice's features.
    heads: Vec<Tensor>,
}

impl Lpips {
    /// Reads the `state_dict()` of `lpips.LPIPS(net=...)` from a safetensors file or from what `torch.save`
    /// wrote. Which network it is follows from the tensors.
    ///
    /// # Errors
    /// A file that cannot be read, or a tensor that is missing or has another shape.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let wanted = WeightDtype::Cast(DType::F32);
        Self::load(&Weights::open_files(&Folder::open(parent)?, &[name], &Device::Cpu, wanted)?)
    }

    /// [`Self::open`] for tensors that are open already.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn load(weights: &Weights) -> Result<Self, CheckpointError> {
        let network = Network::of(weights)?;
        let (scaling, mut channels) = (weights.pp("scaling_layer"), 3);
        let (mut slices, mut heads) = (Vec::new(), Vec::new());
        for (place, layers) in network.slices.iter().enumerate() {
            let slice = weights.pp("net").pp(format!("slice{}", place + 1));
            slices.push(Slice::load(layers, &slice, &mut channels)?);
            heads.push(weights.get_f32(&format!("lin{place}.model.1.weight"), &[1, channels, 1, 1])?);
        }
        let [shift, scale] = ["shift", "scale"].map(|name| scaling.get_f32(name, &[1, 3, 1, 1]));
        Ok(Self { network, shift: shift?, scale: scale?, slices, heads })
    }

    /// The network's name: `alex`, `vgg` or `squeeze`.
    pub fn network(&self) -> &'static str {
        self.network.name
    }

    /// The smallest height and width of frames that its layers have an output for, in pixels.
    pub fn side(&self) -> usize {
        self.network.side()
    }

    /// Compares two videos `[frames, height, width, 3]` of sRGB in 0..=1, frame by frame.
    ///
    /// # Errors
    /// Shapes that differ, tensors of another rank, no frame, other channels than three, or frames smaller
    /// than [`Self::side`].
    pub fn compare(&self, a: &Tensor, b: &Tensor) -> Result<Scores, QualityError> {
        let shape = |tensor: &Tensor| tensor.dims4().map(|(t, h, w, c)| [t, h, w, c]);
        let [of_a, of_b] = [shape(a)?, shape(b)?];
        if of_a != of_b {
            return Err(QualityError::Shape { a: of_a, b: of_b });
        }
        let [frames, height, width, channels] = of_a;
        if frames == 0 || channels != 3 || height.min(width) < self.side() {
            let (network, side) = (self.network.name, self.side());
            return Err(QualityError::TooSmallFor { network, side, shape: of_a });
        }
        let scores: Result<Vec<f64>, _> =
            (0..frames).map(|frame| self.distance(&a.get(frame)?, &b.get(frame)?)).collect();
        Ok(Scores::of_distance(scores?))
    }

    /// Of two frames `[height, width, 3]`.
    #[expect(clippy::disallowed_methods, reason = "one number for each pair of frames")]
    fn distance(&self, a: &Tensor, b: &Tensor) -> candle_core::Result<f64> {
        let both = Tensor::stack(&[a, b], 0)?.permute((0, 3, 1, 2))?;
        let both = both.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.contiguous()?.affine(2.0, -1.0)?;
        let mut features = both.broadcast_sub(&self.shift)?.broadcast_div(&self.scale)?;
        let mut sum = 0.0;
        for (slice, head) in self.slices.iter().zip(&self.heads) {
            features = slice.forward(features)?;
            let norm = features.sqr()?.sum_keepdim(1)?.sqrt()?.affine(1.0, EPSILON)?;
            let unit = features.broadcast_div(&norm)?;
            let squares = (unit.narrow(0, 0, 1)? - unit.narrow(0, 1, 1)?)?.sqr()?;
            let distances = squares.broadcast_mul(head)?.sum_keepdim(1)?;
            sum += f64::from(distances.mean_all()?.to_scalar::<f32>()?);
        }
        Ok(sum)
    }
}
