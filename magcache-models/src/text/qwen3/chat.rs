//! Prompts as a conversation.

use crate::{
    checkpoint::{CheckpointError, Folder},
    text::{PromptTokenizer, TokenizedPrompt, TokenizerDefaults, TokenizerError},
};

/// Whether the answer may begin with thoughts (`enable_thinking` of the chat template).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qwen3Thinking {
    /// True: nothing is said about it.
    Free,
    /// False: the answer begins with empty thoughts.
    Off,
}

/// Qwen3's chat template for one user message, with an answer begun (`add_generation_prompt=True`).
pub fn qwen3_chat(prompt: &str, thinking: Qwen3Thinking) -> String {
    let thoughts = match thinking {
        Qwen3Thinking::Free => "",
        Qwen3Thinking::Off => "<think>\n\n</think>\n\n",
    };
    format!("<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n{thoughts}")
}

/// The tokenizer of the models that read their prompts with Qwen3: [`qwen3_chat`], then rows of 512 tokens,
/// padded on the right.
///
/// If a prompt is too long, the end of the conversation is truncated with it, as in `Flux2KleinPipeline` and
/// `ZImagePipeline` of diffusers (0.42.1).
#[derive(Clone, Debug)]
pub struct Qwen3Tokenizer {
    tokenizer: PromptTokenizer,
    thinking: Qwen3Thinking,
}

impl Qwen3Tokenizer {
    /// Reads a `tokenizer` folder. Its `model_max_length` is the limit of the language model and is ignored
    /// here.
    ///
    /// # Errors
    /// As [`PromptTokenizer::open`].
    pub fn open(folder: &Folder, thinking: Qwen3Thinking) -> Result<Self, CheckpointError> {
        let tokenizer = PromptTokenizer::open(folder, TokenizerDefaults::QWEN3)?;
        let most = TokenizerDefaults::QWEN3.max_length;
        match tokenizer.with_max_length(most, most) {
            Ok(tokenizer) => Ok(Self { tokenizer, thinking }),
            Err(error) => Err(CheckpointError::Tokenizer {
                file: folder.describe_file("tokenizer.json"),
                reason: error.to_string(),
            }),
        }
    }

    /// The same with rows of `max_length` tokens (`max_sequence_length` of the pipeline), at most 512.
    ///
    /// # Errors
    /// [`TokenizerError::Length`].
    pub fn with_max_length(self, max_length: usize) -> Result<Self, TokenizerError> {
        let tokenizer = self.tokenizer.with_max_length(max_length, TokenizerDefaults::QWEN3.max_length)?;
        Ok(Self { tokenizer, ..self })
    }

    /// Tokens of a row.
    pub fn max_length(&self) -> usize {
        self.tokenizer.max_length()
    }

    /// Turns a prompt into the token ids of its conversation.
    ///
    /// # Errors
    /// [`TokenizerError::TooLong`] beyond [`MAX_PROMPT_CHARS`](crate::text::MAX_PROMPT_CHARS) characters, the
    /// template's included.
    pub fn encode(&self, prompt: &str) -> Result<TokenizedPrompt, TokenizerError> {
        self.tokenizer.encode(&qwen3_chat(prompt, self.thinking))
    }
}
