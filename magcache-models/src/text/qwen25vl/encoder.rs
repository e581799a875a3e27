//! From rows of tokens, and pictures among them, to hidden states.

use candle_core::{Device, Tensor};

use super::{Qwen25VlConfig, positions::positions, vision::VisionTower};
use crate::{
    checkpoint::{CheckpointError, Folder, Matrix, WeightDtype, Weights},
    nn::RmsNorm,
    text::{
        TextError,
        causal::{CausalBlock, HalfRotary, frequencies},
        rows::{causal_bias, check_rows, embed_rows},
    },
};

/// Pictures beside a prompt: their patches, and the rows and columns of these.
#[derive(Clone, Debug)]
pub struct SeenPictures {
    /// `[patches, channels]` of all pictures, one after the other, see
    /// [`picture_patches`](super::picture_patches).
    pub patches: Tensor,
    /// Rows and columns of each picture's patches.
    pub grids: Vec<[usize; 2]>,
}

/// The part of `Qwen2_5_VLForConditionalGeneration` of transformers (5.23.0) that a diffusion model reads.
///
/// Differences: tokens of pictures have the positions of pictures, which diffusers 0.42.1 with transformers 5
/// does not give them. Weights keep their storage type and results are f32.
#[derive(Clone, Debug)]
pub struct Qwen25VlEncoder {
    config: Qwen25VlConfig,
    embed_tokens: Matrix,
    blocks: Vec<CausalBlock>,
    norm: RmsNorm,
    vision: Option<VisionTower>,
}

impl Qwen25VlEncoder {
    /// Reads a `text_encoder` folder, with the vision tower if `sees`.
    ///
    /// # Errors
    /// A fault in the folder.
    pub fn open(
        folder: &Folder,
        device: &Device,
        dtype: WeightDtype,
        sees: bool,
    ) -> Result<Self, CheckpointError> {
        let config = Qwen25VlConfig::read(folder)?;
        Self::load(&Weights::open(folder, device, dtype)?, &config, sees)
    }

    /// Loads the tensors from `weights`, by the names of the hub (`model.layers.0...`, `visual...`) or those
    /// of newer writers (`model.language_model...`, `model.visual...`).
    ///
    /// # Errors
    /// A missing tensor or a wrong shape.
    pub fn load(weights: &Weights, config: &Qwen25VlConfig, sees: bool) -> Result<Self, CheckpointError> {
        weights.spare(&["lm_head."]);
        let nested = weights.contains("model.language_model.embed_tokens.weight");
        let (text, visual) = if nested {
            (weights.pp("model.language_model"), weights.pp("model.visual"))
        } else {
            (weights.pp("model"), weights.pp("visual"))
        };
        if !sees {
            visual.spare(&[""]);
        } else if !visual.contains("merger.ln_q.weight") {
            let hint = format!("{} has the language model alone; qwen_2.5_vl_7b has both", weights.place());
            return Err(CheckpointError::MissingPart { part: "vision tower of Qwen2.5-VL", hint });
        }
        let sizes = config.block();
        let block = |layer: usize| CausalBlock::load(&text.pp("layers").pp(layer), &sizes);
        Ok(Self {
            embed_tokens: text.matrix("embed_tokens.weight", [config.vocab_size, config.hidden_size])?,
            blocks: (0..config.num_hidden_layers).map(block).collect::<Result<_, _>>()?,
            norm: RmsNorm::load(&text.pp("norm"), config.hidden_size, config.rms_norm_eps)?,
            vision: sees.then(|| VisionTower::load(&visual, &config.vision)).transpose()?,
            config: config.clone(),
        })
    }

    /// The configuration that the encoder was built from.
    pub fn config(&self) -> &Qwen25VlConfig {
        &self.config
    }

    /// The last hidden state after the final norm, f32 `[batch, tokens, hidden_size]`.
    ///
    /// # Errors
    /// As [`Self::hidden_states`].
    pub fn forward<R: AsRef<[u32]>>(
        &self,
        input_ids: &[R],
        attention_mask: Option<&[R]>,
        pictures: Option<&SeenPictures>,
    ) -> Result<Tensor, TextError> {
        let states = self.hidden_states(input_ids, attention_mask, pictures)?;
        states.into_iter().next_back().ok_or(TextError::Empty { rows: input_ids.len() })
    }

    /// The embedding, the residual stream after every block but the last, and the last after the final norm:
    /// `hidden_states` of transformers, f32 `[batch, tokens, hidden_size]` each.
    ///
    /// `input_ids` are rows of equal length, padded on the right; with pictures it is one row, in which the
    /// tokens [`image_token_id`](Qwen25VlConfig::image_token_id) are as many as the pictures have.
    ///
    /// # Errors
    /// Rows of different lengths, an empty batch, a token outside the vocabulary, another number of tokens of
    /// pictures, pictures for an encoder without its vision tower.
    pub fn hidden_states<R: AsRef<[u32]>>(
        &self,
        input_ids: &[R],
        attention_mask: Option<&[R]>,
        pictures: Option<&SeenPictures>,
    ) -> Result<Vec<Tensor>, TextError> {
        let length = check_rows(input_ids, attention_mask, self.config.vocab_size)?;
        let device = self.embed_tokens.device();
        let embedded = embed_rows(&self.embed_tokens, input_ids, length)?;
        let (mut x, at) = match pictures {
            None => (embedded, (0..length).map(|token| [token; 3]).collect()),
            Some(pictures) => {
                let ids = input_ids.first().map_or(&[][..], AsRef::as_ref);
                (self.with_pictures(&embedded, ids, pictures)?, self.positions(ids, &pictures.grids))
            }
        };
        let rotary = HalfRotary::at(&at, &self.pairs(), device)?;
        let bias = causal_bias(attention_mask, length, device)?;
        let mut states = vec![x.clone()];
        for block in &self.blocks {
            x = block.forward(&x, &rotary, &bias)?;
            states.push(x.clone());
        }
        states.pop();
        states.push(self.norm.forward(&x)?);
        Ok(states)
    }

    /// The tokens that pictures are for the language model, `[tokens, hidden_size]`.
    ///
    /// # Errors
    /// An encoder without its vision tower, or patches of another number.
    pub fn picture_tokens(&self, pictures: &SeenPictures) -> candle_core::Result<Tensor> {
        match &self.vision {
            Some(vision) => vision.forward(&pictures.patches, &pictures.grids),
            None => candle_core::bail!("pictures were given to a text encoder without its vision tower"),
        }
    }

    /// The positions (frame, row, column) of a row of tokens, among them pictures of so many patches.
    pub fn positions(&self, ids: &[u32], grids: &[[usize; 2]]) -> Vec<[usize; 3]> {
        let merge = self.config.vision.spatial_merge_size;
        let grids: Vec<_> = grids.iter().map(|grid| grid.map(|side| side / merge)).collect();
        positions(ids, self.config.image_token_id, &grids)
    }

    /// Axis and frequency of every pair of channels.
    fn pairs(&self) -> Vec<(usize, f32)> {
        let axes = self.config.mrope_section.into_iter().enumerate();
        let axes = axes.flat_map(|(axis, count)| std::iter::repeat_n(axis, count));
        axes.zip(frequencies(self.config.head_dim(), self.config.rope_theta)).collect()
    }

    /// The embedding of a row with the tokens of pictures in their places.
    fn with_pictures(
        &self,
        embedded: &Tensor,
        ids: &[u32],
        pictures: &SeenPictures,
    ) -> candle_core::Result<Tensor> {
        let seen = self.picture_tokens(pictures)?;
        let (count, rows) = (seen.dim(0)?, ids.len() as u32);
        let mut next = rows;
        let mut place = |(i, id): (u32, &u32)| {
            let of_picture = *id == self.config.image_token_id;
            next += u32::from(of_picture);
            if of_picture { next - 1 } else { i }
        };
        let places: Vec<u32> = (0..).zip(ids).map(&mut place).collect();
        if (next - rows) as usize != count {
            let got = next - rows;
            candle_core::bail!("the prompt has {got} tokens of pictures, the pictures have {count}")
        }
        let all = Tensor::cat(&[&embedded.squeeze(0)?, &seen], 0)?;
        all.index_select(&Tensor::new(places, all.device())?, 0)?.unsqueeze(0)
    }
}
