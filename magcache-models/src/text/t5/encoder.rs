//! The encoder of T5 v1.1 and UMT5.

use candle_core::{DType, Result, Tensor};

use super::{RelativePositions, T5Config, T5Variant, block::T5Block};
use crate::{
    checkpoint::{CheckpointError, Matrix, Weights},
    nn::RmsNorm,
    text::{
        TextError, TokenizedPrompt,
        rows::{check_rows, embed_rows, mask_bias},
    },
};

/// `T5EncoderModel` and `UMT5EncoderModel` of transformers (5.23.0).
///
/// Weights keep their storage type and results are f32. Of the embedding table only the rows of the prompt
/// are widened: UMT5-XXL's has 256384 rows of 4096 values.
#[derive(Clone, Debug)]
pub struct T5Encoder {
    config: T5Config,
    embed_tokens: Matrix,
    blocks: Vec<T5Block>,
    final_layer_norm: RmsNorm,
}

impl T5Encoder {
    /// Loads an encoder from tensors with their names on the hub.
    ///
    /// The embedding is `shared.weight`, or `encoder.embed_tokens.weight` if a file has only that; they are
    /// one tensor in transformers. Tensors of a decoder, which some files contain, are ignored.
    pub fn load(weights: &Weights, config: &T5Config) -> std::result::Result<Self, CheckpointError> {
        const TIED: &str = "encoder.embed_tokens.weight";
        let embedding =
            if weights.contains(TIED) && !weights.contains("shared.weight") { TIED } else { "shared.weight" };
        weights.spare(&["shared.weight", TIED, "decoder.", "lm_head."]);
        let encoder = weights.pp("encoder");
        let block = |layer: usize| {
            let table = layer == 0 || config.variant == T5Variant::Umt5;
            T5Block::load(&encoder.pp("block").pp(layer), config, table)
        };
        Ok(Self {
            embed_tokens: weights.matrix(embedding, [config.vocab_size, config.d_model])?,
            blocks: (0..config.num_layers).map(block).collect::<std::result::Result<_, _>>()?,
            final_layer_norm: RmsNorm::load(
                &encoder.pp("final_layer_norm"),
                config.d_model,
                config.layer_norm_epsilon,
            )?,
            config: config.clone(),
        })
    }

    /// The configuration that the encoder was built from.
    pub fn config(&self) -> &T5Config {
        &self.config
    }

    /// Hidden states after the last block and its norm, f32 `[batch, tokens, d_model]`.
    ///
    /// `input_ids` are rows of equal length. Tokens whose `attention_mask` is 0 are not attended to, though
    /// their own rows are computed; without a mask all tokens are attended to, which is how Flux calls T5.
    ///
    /// # Errors
    /// Rows of different lengths, an empty batch, a token outside the vocabulary.
    pub fn forward<R: AsRef<[u32]>>(
        &self,
        input_ids: &[R],
        attention_mask: Option<&[R]>,
    ) -> std::result::Result<Tensor, TextError> {
        self.run(input_ids, attention_mask, |_| ())
    }

    /// The embeddings, the hidden states after every block but the last, and the result of [`Self::forward`]:
    /// one more than there are blocks, in the order of `hidden_states` in transformers.
    pub fn hidden_states<R: AsRef<[u32]>>(
        &self,
        input_ids: &[R],
        attention_mask: Option<&[R]>,
    ) -> std::result::Result<Vec<Tensor>, TextError> {
        let mut all = Vec::with_capacity(self.blocks.len() + 1);
        let last = self.run(input_ids, attention_mask, |hidden_states| all.push(hidden_states.clone()))?;
        all.push(last);
        Ok(all)
    }

    /// The text input of a Wan transformer: hidden states of the prompts' tokens and zeros for the padding,
    /// f32 `[batch, tokens, d_model]`.
    ///
    /// Only as many rows are computed as the longest prompt has tokens: padding is masked and its rows are
    /// zero, so the others have no effect.
    pub fn prompt_embeds(&self, prompts: &[TokenizedPrompt]) -> std::result::Result<Tensor, TextError> {
        let tokens = prompts.first().map_or(0, |prompt| prompt.input_ids.len());
        let ids: Vec<&[u32]> = prompts.iter().map(|prompt| prompt.input_ids.as_slice()).collect();
        let mask: Vec<&[u32]> = prompts.iter().map(|prompt| prompt.attention_mask.as_slice()).collect();
        check_rows(&ids, Some(&mask), self.config.vocab_size)?;
        let longest = prompts.iter().map(|prompt| prompt.len).max().unwrap_or(tokens).clamp(1, tokens);
        let cut = |rows: Vec<&'_ [u32]>| {
            rows.into_iter().map(|row| row.iter().take(longest).copied().collect()).collect()
        };
        let (ids, mask): (Vec<Vec<u32>>, Vec<Vec<u32>>) = (cut(ids), cut(mask));
        let hidden_states = self.forward(&ids, Some(&mask))?;
        let kept =
            Tensor::from_iter(mask.iter().flatten().map(|token| *token as f32), hidden_states.device())?;
        let kept = kept.reshape((prompts.len(), longest, 1))?;
        Ok(hidden_states.broadcast_mul(&kept)?.pad_with_zeros(1, 0, tokens - longest)?)
    }

    /// The bias that a block adds to the scores of `length` tokens for their positions, f32
    /// `[1, heads, length, length]`; `None` if it has no table of its own.
    pub fn position_bias(&self, layer: usize, length: usize) -> Result<Option<Tensor>> {
        let Some(table) = self.blocks.get(layer).and_then(T5Block::table) else { return Ok(None) };
        let buckets = RelativePositions::new(&self.config).buckets(length, self.embed_tokens.device())?;
        table.bias(&buckets, length).map(Some)
    }

    /// Calls `before` with the input of each block.
    fn run<R: AsRef<[u32]>>(
        &self,
        input_ids: &[R],
        attention_mask: Option<&[R]>,
        mut before: impl FnMut(&Tensor),
    ) -> std::result::Result<Tensor, TextError> {
        let length = check_rows(input_ids, attention_mask, self.config.vocab_size)?;
        let device = self.embed_tokens.device();
        let mask = attention_mask.map(|mask| mask_bias(mask, length, device)).transpose()?;
        let buckets = RelativePositions::new(&self.config).buckets(length, device)?;
        let mut hidden_states = embed_rows(&self.embed_tokens, input_ids, length)?;
        let mut bias = Tensor::zeros((1, 1, 1, 1), DType::F32, device)?;
        for block in &self.blocks {
            // T5's later blocks have no table and reuse the first one's.
            if let Some(table) = block.table() {
                bias = table.bias(&buckets, length)?;
                if let Some(mask) = &mask {
                    bias = bias.broadcast_add(mask)?;
                }
            }
            before(&hidden_states);
            hidden_states = block.forward(&hidden_states, &bias)?;
        }
        Ok(self.final_layer_norm.forward(&hidden_states)?)
    }
}
