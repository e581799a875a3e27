//! Recordings to hidden states.

use candle_core::{Device, Result, Tensor};

use super::{
    MAX_SECONDS, SAMPLE_RATE, Wav2Vec2Config, WaveformError, extractor::FeatureExtractor,
    layer::EncoderLayer, positions::PositionalConv,
};
use crate::{
    checkpoint::{CheckpointError, Folder, WeightDtype, Weights},
    nn::{LayerNorm, Linear},
};

/// `Wav2Vec2Model` of transformers (4.51.3) with all its hidden states.
///
/// Weights keep their storage type and results are f32. Heads on top of the encoder are not loaded.
#[derive(Clone, Debug)]
pub struct Wav2Vec2Encoder {
    config: Wav2Vec2Config,
    device: Device,
    feature_extractor: FeatureExtractor,
    projection_norm: LayerNorm,
    projection: Linear,
    pos_conv_embed: PositionalConv,
    layers: Vec<EncoderLayer>,
    layer_norm: LayerNorm,
}

impl Wav2Vec2Encoder {
    /// Reads a folder as `wav2vec2-large-xlsr-53-english`: `config.json`, and `model.safetensors` or
    /// `pytorch_model.bin`.
    ///
    /// # Errors
    /// As [`Wav2Vec2Config::read`] and [`Self::load`].
    pub fn open(
        folder: &Folder,
        device: &Device,
        dtype: WeightDtype,
    ) -> std::result::Result<Self, CheckpointError> {
        let config = Wav2Vec2Config::read(folder)?;
        Self::load(&Weights::open(folder, device, dtype)?, &config)
    }

    /// Loads the tensors from `weights`, by their names in a file with a head (`wav2vec2.encoder...`) or in
    /// one without.
    ///
    /// # Errors
    /// A missing tensor or a wrong shape.
    pub fn load(weights: &Weights, config: &Wav2Vec2Config) -> std::result::Result<Self, CheckpointError> {
        weights.spare(&["lm_head.", "quantizer.", "project_q.", "project_hid."]);
        let bare = weights.contains("feature_projection.projection.weight");
        let weights = if bare { weights.clone() } else { weights.pp("wav2vec2") };
        // Stands for masked states in training.
        weights.spare(&["masked_spec_embed"]);
        let (channels, eps) = (config.hidden_size, config.layer_norm_eps);
        let extracted = config.conv_dim.last().copied().unwrap_or_default();
        let (projection, encoder) = (weights.pp("feature_projection"), weights.pp("encoder"));
        let layer = |i: usize| EncoderLayer::load(&encoder.pp("layers").pp(i), config);
        Ok(Self {
            device: weights.device().clone(),
            feature_extractor: FeatureExtractor::load(&weights.pp("feature_extractor"), config)?,
            projection_norm: LayerNorm::load(&projection.pp("layer_norm"), extracted, eps)?,
            projection: Linear::load(&projection.pp("projection"), extracted, channels, true)?,
            pos_conv_embed: PositionalConv::load(&encoder.pp("pos_conv_embed"), config)?,
            layers: (0..config.num_hidden_layers).map(layer).collect::<std::result::Result<_, _>>()?,
            layer_norm: LayerNorm::load(&encoder.pp("layer_norm"), channels, eps)?,
            config: config.clone(),
        })
    }

    /// The configuration that the encoder was built from.
    pub fn config(&self) -> &Wav2Vec2Config {
        &self.config
    }

    /// Where its weights are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Calls `state` with every hidden state in turn, f32 `[1, states, hidden_size]`, one more than there are
    /// layers: 0 is the input of the first layer, `i` the output of layer `i - 1`, and the last one is behind
    /// the final norm too. (transformers 5 returns the last without that norm.)
    ///
    /// `input_values` are those of [`Wav2Vec2Processor`](super::Wav2Vec2Processor). All states attend to each
    /// other, so a part of a recording gives other states than the whole. With `n` states of `c` channels and
    /// a hidden size of `h` in the feed-forward layers, about `n * (6 * c + h)` values are held at a time;
    /// the time grows with `n²`.
    ///
    /// # Errors
    /// [`WaveformError::TooShort`] for less than one state, [`WaveformError::TooLong`] beyond
    /// [`MAX_SECONDS`], and what `state` returns.
    pub fn each_state(
        &self,
        input_values: &Tensor,
        state: impl FnMut(usize, &Tensor) -> Result<()>,
    ) -> std::result::Result<(), WaveformError> {
        self.run(input_values, state, |_, _| ())
    }

    /// [`Self::each_state`], all at once.
    pub fn hidden_states(&self, input_values: &Tensor) -> std::result::Result<Vec<Tensor>, WaveformError> {
        let mut all = Vec::with_capacity(self.layers.len() + 1);
        self.each_state(input_values, |_, state| {
            all.push(state.clone());
            Ok(())
        })?;
        Ok(all)
    }

    /// [`Self::hidden_states`]; calls `inside` with the names and outputs of the modules before them and in
    /// them, and with `unnormed`, the last state before the final norm. `conv_layers.N` are shown for the
    /// first 256 states, `[1, tokens, channels]`.
    #[cfg(feature = "verify")]
    pub fn observed(
        &self,
        input_values: &Tensor,
        inside: impl FnMut(&str, &Tensor),
    ) -> std::result::Result<Vec<Tensor>, WaveformError> {
        let mut all = Vec::with_capacity(self.layers.len() + 1);
        let state = |_, state: &Tensor| {
            all.push(state.clone());
            Ok(())
        };
        self.run(input_values, state, inside)?;
        Ok(all)
    }

    fn run(
        &self,
        input_values: &Tensor,
        mut state: impl FnMut(usize, &Tensor) -> Result<()>,
        mut inside: impl FnMut(&str, &Tensor),
    ) -> std::result::Result<(), WaveformError> {
        let (_, samples) = input_values.dims2()?;
        if self.config.states(samples) == 0 {
            return Err(WaveformError::TooShort { samples, least: self.config.samples(1) });
        }
        if samples > MAX_SECONDS * SAMPLE_RATE {
            return Err(WaveformError::TooLong { samples });
        }
        let extracted = self.feature_extractor.forward(input_values, |layer, first, x| {
            if first == 0 {
                inside(&format!("conv_layers.{layer}"), x);
            }
        })?;
        let projected = self.projection.forward(&self.projection_norm.forward(&extracted)?)?;
        drop(extracted);
        inside("feature_projection", &projected);
        let positions = self.pos_conv_embed.forward(&projected)?;
        inside("pos_conv_embed", &positions);
        let mut hidden_states = (projected + positions)?;
        for (i, layer) in self.layers.iter().enumerate() {
            state(i, &hidden_states)?;
            hidden_states =
                layer.forward(&hidden_states, |module, x| inside(&format!("layers.{i}.{module}"), x))?;
        }
        inside("unnormed", &hidden_states);
        Ok(state(self.layers.len(), &self.layer_norm.forward(&hidden_states)?)?)
    }
}
