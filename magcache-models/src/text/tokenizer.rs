//! From a prompt to token ids.

use std::fmt;

use serde::Deserialize;
use tokenizers::{PostProcessor, Tokenizer, TruncationDirection};

use super::{TokenizerError, clean_prompt};
use crate::checkpoint::{CheckpointError, Folder};

/// Characters that a prompt may have, some thirty times what 512 tokens hold in English.
pub const MAX_PROMPT_CHARS: usize = 20_000;

/// Tokens that Wan's transformers were trained to read.
const WAN_LENGTH: usize = 512;

/// transformers writes 1e30 for a tokenizer that knows no limit; no text encoder reads as many tokens as this.
const NO_LIMIT: f64 = 65_536.0;

/// The tokenizer of a Wan text encoder.
///
/// It applies `tokenizer.json` as it stands, so the end token comes from that file's post-processor. Prompts are cleaned
/// by [`clean_prompt`] first.
#[derive(Clone)]
pub struct WanTokenizer {
    tokenizer: Tokenizer,
    max_length: usize,
    /// Tokens of a prompt that fit beside what the post-processor adds.
    room: usize,
    pad: u32,
}

impl fmt::Debug for WanTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WanTokenizer")
            .field("vocab_size", &self.tokenizer.get_vocab_size(true))
            .field("max_length", &self.max_length)
            .field("pad", &self.pad)
            .finish_non_exhaustive()
    }
}

/// A prompt as token ids, padded on the right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizedPrompt {
    /// Token ids, as many as the tokenizer's maximum length.
    pub input_ids: Vec<u32>,
    /// 1 for a token, 0 for padding.
    pub attention_mask: Vec<u32>,
    /// Tokens before the padding, the end token included.
    pub len: usize,
    /// Tokens of the prompt that were cut off because it is too long.
    pub truncated: usize,
}

/// The keys of `tokenizer_config.json` that count here.
#[derive(Default, Deserialize)]
struct TokenizerConfig {
    model_max_length: Option<f64>,
    pad_token: Option<SpecialToken>,
}

/// A token, with or without the flags that transformers may write beside it.
#[derive(Deserialize)]
#[serde(untagged)]
enum SpecialToken {
    Plain(String),
    Added { content: String },
}

impl WanTokenizer {
    /// Reads `tokenizer.json` and, where there is one, `tokenizer_config.json` of a `tokenizer` folder.
    ///
    /// `model_max_length` is the length of the rows; where it is missing or says that there is no limit, 512.
    ///
    /// # Errors
    /// Missing or unreadable files, a padding token outside the vocabulary, a length without room for a prompt.
    pub fn open(folder: &Folder) -> Result<Self, CheckpointError> {
        const CONFIG: &str = "tokenizer_config.json";
        let config =
            if folder.exists(CONFIG) { folder.read_json(CONFIG)? } else { TokenizerConfig::default() };
        let file = folder.describe_file("tokenizer.json");
        let refused = |reason: String| CheckpointError::Tokenizer { file: file.clone(), reason };
        let mut tokenizer = Tokenizer::from_bytes(folder.read("tokenizer.json")?)
            .map_err(|error| refused(error.to_string()))?;

        let max_length = match config.model_max_length {
            Some(length) if length <= NO_LIMIT => length as usize,
            _ => WAN_LENGTH,
        };
        let added = tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        if max_length <= added {
            let reason = format!("model_max_length is {max_length}, expected at least {}", added + 1);
            return Err(CheckpointError::BadConfig { file: folder.describe_file(CONFIG), reason });
        }
        let pad = match config.pad_token {
            Some(SpecialToken::Plain(token) | SpecialToken::Added { content: token }) => token,
            None => "<pad>".to_owned(),
        };
        let Some(pad) = tokenizer.token_to_id(&pad) else {
            return Err(refused(format!("the padding token \"{pad}\" is not in its vocabulary")));
        };
        // Cutting and padding are done in `encode`, which counts, whatever the file asks for.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| refused(error.to_string()))?;
        Ok(Self { tokenizer, max_length, room: max_length - added, pad })
    }

    /// Tokens of a row.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Cleans a prompt and turns it into token ids.
    ///
    /// Tokens beyond the maximum length are cut off before the end token, and counted so that the caller can say so.
    ///
    /// # Errors
    /// [`TokenizerError::TooLong`] beyond [`MAX_PROMPT_CHARS`] characters.
    pub fn encode(&self, prompt: &str) -> Result<TokenizedPrompt, TokenizerError> {
        let chars = prompt.chars().count();
        if chars > MAX_PROMPT_CHARS {
            return Err(TokenizerError::TooLong { chars, max_length: self.max_length });
        }
        let failed = |error: tokenizers::Error| TokenizerError::Failed { reason: error.to_string() };
        let mut encoding = self.tokenizer.encode(clean_prompt(prompt), false).map_err(failed)?;
        let truncated = encoding.len().saturating_sub(self.room);
        encoding.truncate(self.room, 0, TruncationDirection::Right);
        let encoding = self.tokenizer.post_process(encoding, None, true).map_err(failed)?;
        let mut input_ids = encoding.get_ids().to_vec();
        let len = input_ids.len();
        let mut attention_mask = vec![1; len];
        input_ids.resize(self.max_length, self.pad);
        attention_mask.resize(self.max_length, 0);
        Ok(TokenizedPrompt { input_ids, attention_mask, len, truncated })
    }
}
