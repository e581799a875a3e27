//! From prompts, and pictures beside them, to embeddings.

use candle_core::{Device, Tensor};

use crate::{
    image::{Filter, Picture},
    pipeline::{PipelineError, Result},
    text::{
        PromptTokenizer, Qwen25VlEncoder, SeenPictures, TokenizerDefaults, TokenizerError, picture_patches,
        processed,
    },
};

/// What a checkpoint was trained to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edition {
    /// Text to image: Qwen-Image, 2512, Lightning.
    Image,
    /// The first Edit, which looks at one picture.
    Edit,
    /// Edit-2509 and 2511, which look at up to three.
    EditPlus,
}

const IMAGE_TURN: &str = "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial \
                          relationships of the objects and background:";
const EDIT_TURN: &str = "Describe the key features of the input image (color, shape, size, texture, objects, \
                         background), then explain how the user's text instruction should alter or modify the \
                         image. Generate a new image that meets the user's requirements while maintaining \
                         consistency with the original input where appropriate.";

/// A picture in a prompt.
const PICTURE: &str = "<|vision_start|><|image_pad|><|vision_end|>";

/// Tokens of a prompt at most, besides those before it.
pub(super) const MAX_TOKENS: usize = 1024;

/// Tokens of a prompt for editing at most, pictures not counted, where the reference has no limit.
const MAX_EDIT_TOKENS: usize = 4096;

/// The tokenizer's files and defaults.
pub(super) const TOKENIZER: TokenizerDefaults = TokenizerDefaults { max_length: 1024, pad: "<|endoftext|>" };

impl Edition {
    /// Whether it looks at pictures.
    pub fn sees(self) -> bool {
        self != Self::Image
    }

    /// Pictures that it looks at, at most.
    pub fn pictures(self) -> usize {
        match self {
            Self::Image => 0,
            Self::Edit => 1,
            Self::EditPlus => 3,
        }
    }

    /// The conversation around a prompt beside so many pictures.
    pub fn conversation(self, prompt: &str, pictures: usize) -> String {
        let system = if self.sees() { EDIT_TURN } else { IMAGE_TURN };
        let seen: String = match self {
            Self::Image => String::new(),
            Self::Edit => PICTURE.repeat(pictures),
            Self::EditPlus => (1..=pictures).map(|number| format!("Picture {number}: {PICTURE}")).collect(),
        };
        format!(
            "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{seen}{prompt}<|im_end|>\n<|im_start|>assistant\n"
        )
    }

    /// Rows of the embeddings before the prompt, which are dropped: a count, whatever the tokenizer.
    pub fn dropped(self) -> usize {
        if self.sees() { 64 } else { 34 }
    }

    /// Tokens of a conversation at most, pictures not counted.
    pub(super) fn max_length(self) -> usize {
        self.dropped() + if self.sees() { MAX_EDIT_TOKENS } else { MAX_TOKENS }
    }
}

/// A prompt as token ids, and how many tokens of it were cut off.
pub(super) struct Tokens {
    pub(super) ids: Vec<u32>,
    pub(super) truncated: usize,
}

/// The tokens of a prompt in its conversation; each picture becomes as many as it has, `seen`.
pub(super) fn tokenize(
    tokenizer: &PromptTokenizer,
    edition: Edition,
    prompt: &str,
    image_token: u32,
    seen: &[usize],
) -> std::result::Result<Tokens, TokenizerError> {
    let row = tokenizer.encode(&edition.conversation(prompt, seen.len()))?;
    let mut seen = seen.iter().copied();
    let ids = row.input_ids.into_iter().take(row.len);
    let times = |id: u32| if id == image_token { seen.next().unwrap_or(1) } else { 1 };
    let mut times = times;
    let ids = ids.flat_map(|id| std::iter::repeat_n(id, times(id))).collect();
    Ok(Tokens { ids, truncated: row.truncated })
}

/// Embeddings of a prompt `[1, tokens, hidden_size]`: the last hidden state behind the rows that are dropped.
pub(super) fn encode(
    encoder: &Qwen25VlEncoder,
    edition: Edition,
    tokens: &Tokens,
    pictures: Option<&SeenPictures>,
) -> Result<Tensor> {
    let states = encoder
        .forward(std::slice::from_ref(&tokens.ids), None, pictures)
        .map_err(|e| PipelineError::part("text encoder", e))?;
    let dropped = edition.dropped();
    match tokens.ids.len().checked_sub(dropped) {
        Some(rest) if rest > 0 => Ok(states.narrow(1, dropped, rest)?),
        _ => {
            let got = tokens.ids.len();
            let message =
                format!("the prompt's conversation has {got} tokens, the first {dropped} are dropped");
            Err(PipelineError::request(message, "the tokenizer is not that of Qwen-Image"))
        }
    }
}

/// Pictures as the text encoder sees them: each is first brought to `size`.
pub(super) fn seen(
    encoder: &Qwen25VlEncoder,
    pictures: &[(&Picture, [usize; 2])],
    device: &Device,
) -> Result<Option<SeenPictures>> {
    if pictures.is_empty() {
        return Ok(None);
    }
    let config = &encoder.config().vision;
    let (mut patches, mut grids) = (Vec::new(), Vec::new());
    for (picture, [width, height]) in pictures {
        let one = picture
            .resize(*width, *height, Filter::Lanczos)
            .and_then(|picture| processed(config, &picture))
            .and_then(|picture| picture_patches(config, &picture, device));
        let (own, grid) = one.map_err(|e| PipelineError::part("image", e))?;
        patches.push(own);
        grids.push(grid);
    }
    Ok(Some(SeenPictures { patches: Tensor::cat(&patches, 0)?, grids }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_stand_before_the_prompt_and_are_numbered_in_later_editions() {
        let text = Edition::Image.conversation("a red cat", 0);
        assert!(text.ends_with(
            "background:<|im_end|>\n<|im_start|>user\na red cat<|im_end|>\n<|im_start|>assistant\n"
        ));
        let first = Edition::Edit.conversation("make it blue", 1);
        assert!(first.contains(&format!("user\n{PICTURE}make it blue<|im_end|>")));
        let plus = Edition::EditPlus.conversation("make it blue", 2);
        assert!(
            plus.contains(&format!("user\nPicture 1: {PICTURE}Picture 2: {PICTURE}make it blue<|im_end|>"))
        );
        assert_eq!([Edition::Image, Edition::Edit].map(Edition::dropped), [34, 64]);
    }
}
