//! From a prompt to token ids.

use std::fmt;

use candle_core::Device;
use serde::Deserialize;
use tokenizers::{ModelWrapper, PostProcessor, Tokenizer, TruncationDirection};

use super::{
    TokenizerError, clean_prompt,
    clip_bpe::{self, END},
    unigram::Unigram,
};
use crate::checkpoint::{CheckpointError, Folder, WeightDtype, Weights};

/// Maximum characters of a prompt, about thirty times what 512 tokens hold in English.
pub const MAX_PROMPT_CHARS: usize = 20_000;

/// transformers writes 1e30 for a tokenizer without a limit; no text encoder reads as many tokens as this.
const NO_LIMIT: f64 = 65_536.0;

/// Values used if `tokenizer_config.json` does not contain them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenizerDefaults {
    /// Tokens of a row.
    pub max_length: usize,
    /// The padding token.
    pub pad: &'static str,
}

impl TokenizerDefaults {
    /// T5 for Flux and UMT5 for Wan, whose transformers were trained to read 512 tokens.
    pub const T5: Self = Self { max_length: 512, pad: "<pad>" };
    /// CLIP, which has positions for 77 tokens.
    pub const CLIP: Self = Self { max_length: 77, pad: END };
    /// Qwen3 for FLUX.2 klein.
    pub const QWEN3: Self = Self { max_length: 512, pad: END };
}

/// A tokenizer whose rows all have the same length.
///
/// It applies `tokenizer.json` unchanged, so tokens around the prompt come from that file's post-processor.
/// Prompts are not cleaned.
#[derive(Clone)]
pub struct PromptTokenizer {
    tokenizer: Tokenizer,
    max_length: usize,
    /// Tokens that the post-processor adds to a prompt.
    added: usize,
    pad: u32,
}

impl fmt::Debug for PromptTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PromptTokenizer")
            .field("vocab_size", &self.tokenizer.get_vocab_size(true))
            .field("max_length", &self.max_length)
            .field("pad", &self.pad)
            .finish_non_exhaustive()
    }
}

/// The tokenizer of a Wan text encoder: [`clean_prompt`], then [`PromptTokenizer`].
#[derive(Clone, Debug)]
pub struct WanTokenizer(PromptTokenizer);

/// A prompt as token ids, padded on the right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizedPrompt {
    /// Token ids, as many as the tokenizer's maximum length.
    pub input_ids: Vec<u32>,
    /// 1 for a token, 0 for padding.
    pub attention_mask: Vec<u32>,
    /// Number of tokens before the padding, including the end token.
    pub len: usize,
    /// Number of tokens of the prompt that were truncated because it is too long.
    pub truncated: usize,
}

/// The file that contains the length of rows.
const CONFIG: &str = "tokenizer_config.json";

/// The file that contains everything else.
const TOKENIZER: &str = "tokenizer.json";

/// In place of it for T5, the model of sentencepiece.
const SENTENCEPIECE: &str = "spiece.model";

/// What the pieces of a tokenizer's vocabulary are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenizerKind {
    /// Merged pairs: CLIP's.
    Bpe,
    /// Pieces with probabilities: T5's and UMT5's.
    Unigram,
}

impl TokenizerKind {
    /// The kind of the tokenizer in `folder`; `None` if there is none that is known.
    pub fn of(folder: &Folder) -> Option<Self> {
        #[derive(Deserialize)]
        struct Whole {
            model: Model,
        }
        #[derive(Deserialize)]
        struct Model {
            #[serde(rename = "type")]
            name: String,
        }
        if folder.exists(TOKENIZER) {
            return match folder.read_json::<Whole>(TOKENIZER).ok()?.model.name.as_str() {
                "BPE" => Some(Self::Bpe),
                "Unigram" => Some(Self::Unigram),
                _ => None,
            };
        }
        if folder.exists(clip_bpe::MERGES) {
            return Some(Self::Bpe);
        }
        folder.exists(SENTENCEPIECE).then_some(Self::Unigram)
    }
}

/// The keys of `tokenizer_config.json` that are used here.
#[derive(Default, Deserialize)]
struct TokenizerConfig {
    model_max_length: Option<f64>,
    pad_token: Option<SpecialToken>,
}

/// A token, with or without the flags that transformers may add.
#[derive(Deserialize)]
#[serde(untagged)]
enum SpecialToken {
    Plain(String),
    Added { content: String },
}

impl TokenizerConfig {
    fn read(folder: &Folder) -> Result<Self, CheckpointError> {
        if folder.exists(CONFIG) { folder.read_json(CONFIG) } else { Ok(Self::default()) }
    }

    fn max_length(&self, defaults: TokenizerDefaults) -> usize {
        match self.model_max_length {
            Some(length) if length <= NO_LIMIT => length as usize,
            _ => defaults.max_length,
        }
    }
}

impl PromptTokenizer {
    /// [`Self::max_length`] of the tokenizer in `folder`, without reading its vocabulary.
    ///
    /// # Errors
    /// A `tokenizer_config.json` that cannot be read.
    pub fn max_length_in(folder: &Folder, defaults: TokenizerDefaults) -> Result<usize, CheckpointError> {
        Ok(TokenizerConfig::read(folder)?.max_length(defaults))
    }

    /// Whether `folder` has a tokenizer that [`Self::open`] reads.
    pub fn is_in(folder: &Folder) -> bool {
        [TOKENIZER, clip_bpe::MERGES, SENTENCEPIECE].iter().any(|file| folder.exists(file))
    }

    /// Reads `tokenizer.json` and, if it exists, `tokenizer_config.json` of a `tokenizer` folder. If the
    /// first is missing, as for the CLIP of FLUX.1, builds a byte-level BPE from `vocab.json` and
    /// `merges.txt` by CLIP's rules, or for T5 the unigram model of `spiece.model`.
    ///
    /// The length of the rows is `model_max_length`, or that of the `defaults` if it is missing or means that
    /// there is no limit.
    ///
    /// # Errors
    /// Missing or unreadable files, a padding token outside the vocabulary, a length without room for a
    /// prompt.
    pub fn open(folder: &Folder, defaults: TokenizerDefaults) -> Result<Self, CheckpointError> {
        let config = TokenizerConfig::read(folder)?;
        let bare = !folder.exists(TOKENIZER) && folder.exists(clip_bpe::MERGES);
        if !bare && !folder.exists(TOKENIZER) && folder.exists(SENTENCEPIECE) {
            let (file, bytes) = (folder.describe_file(SENTENCEPIECE), folder.read(SENTENCEPIECE)?);
            return Self::of_model(Unigram::of_sentencepiece(&bytes), config.max_length(defaults), file);
        }
        let file = folder.describe_file(if bare { clip_bpe::VOCAB } else { TOKENIZER });
        let json = if bare { clip_bpe::tokenizer_json(folder)?.into() } else { folder.read(TOKENIZER)? };
        let max_length = config.max_length(defaults);
        let own = Self::from_json(&json, max_length, &file)?;
        if max_length <= own.added {
            let reason = format!("model_max_length is {max_length}, expected at least {}", own.added + 1);
            return Err(CheckpointError::BadConfig { file: folder.describe_file(CONFIG), reason });
        }
        let pad = match config.pad_token {
            Some(SpecialToken::Plain(token) | SpecialToken::Added { content: token }) => token,
            None => defaults.pad.to_owned(),
        };
        match own.tokenizer.token_to_id(&pad) {
            Some(pad) => Ok(Self { pad, ..own }),
            None => {
                let reason = format!("the padding token \"{pad}\" is not in its vocabulary");
                Err(CheckpointError::Tokenizer { file, reason })
            }
        }
    }

    /// The tokenizer inside a file of weights, with rows of the default length; `None` if there is none.
    ///
    /// # Errors
    /// A file or a tokenizer that cannot be read.
    pub fn in_file(
        folder: &Folder,
        file: &str,
        defaults: TokenizerDefaults,
    ) -> Result<Option<Self>, CheckpointError> {
        let weights = Weights::open_files(folder, &[file], &Device::Cpu, WeightDtype::Keep)?;
        let Some(model) = Unigram::of(&weights) else { return Ok(None) };
        Self::of_model(model, defaults.max_length, weights.place()).map(Some)
    }

    /// From a unigram model of `file`, or what is wrong with it.
    fn of_model(
        model: Result<Unigram, String>,
        max_length: usize,
        file: String,
    ) -> Result<Self, CheckpointError> {
        let model = model.map_err(|reason| CheckpointError::Tokenizer { file: file.clone(), reason })?;
        Ok(Self { pad: model.pad, ..Self::from_json(&model.json(), max_length, &file)? })
    }

    /// From a `tokenizer.json`; messages call it `file`. Pads with token 0.
    fn from_json(json: &[u8], max_length: usize, file: &str) -> Result<Self, CheckpointError> {
        let refused = |error: tokenizers::Error| CheckpointError::Tokenizer {
            file: file.to_owned(),
            reason: error.to_string(),
        };
        let mut tokenizer = Tokenizer::from_bytes(json).map_err(refused)?;
        let added = tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        // Truncation and padding are done in `encode`, which counts tokens, whatever the file specifies.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(refused)?;
        Ok(Self { tokenizer, max_length, added, pad: 0 })
    }

    /// Tokens of a row.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// The same with rows of `max_length` tokens, at most `most`.
    ///
    /// # Errors
    /// [`TokenizerError::Length`] for more, and for too few to fit a prompt between the tokens around it.
    pub fn with_max_length(self, max_length: usize, most: usize) -> Result<Self, TokenizerError> {
        let least = self.added + 1;
        if (least..=most).contains(&max_length) {
            Ok(Self { max_length, ..self })
        } else {
            Err(TokenizerError::Length { got: max_length, least, most })
        }
    }

    /// Turns a prompt into token ids.
    ///
    /// Tokens beyond the maximum length are cut off before the end token, and counted so that the caller can
    /// report it.
    ///
    /// # Errors
    /// [`TokenizerError::TooLong`] beyond [`MAX_PROMPT_CHARS`] characters.
    pub fn encode(&self, prompt: &str) -> Result<TokenizedPrompt, TokenizerError> {
        self.check_length(prompt)?;
        let failed = |error: tokenizers::Error| TokenizerError::Failed { reason: error.to_string() };
        let mut encoding = self.tokenizer.encode(prompt, false).map_err(failed)?;
        let room = self.max_length - self.added;
        let truncated = encoding.len().saturating_sub(room);
        encoding.truncate(room, 0, TruncationDirection::Right);
        let encoding = self.tokenizer.post_process(encoding, None, true).map_err(failed)?;
        let mut input_ids = encoding.get_ids().to_vec();
        let len = input_ids.len();
        let mut attention_mask = vec![1; len];
        input_ids.resize(self.max_length, self.pad);
        attention_mask.resize(self.max_length, 0);
        Ok(TokenizedPrompt { input_ids, attention_mask, len, truncated })
    }

    /// Words of a prompt that are not in the vocabulary, each once: the encoder sees the same token for all
    /// of them. The subword vocabularies of published models lack none.
    ///
    /// # Errors
    /// [`TokenizerError::TooLong`] beyond [`MAX_PROMPT_CHARS`] characters.
    pub fn unknown_words(&self, prompt: &str) -> Result<Vec<String>, TokenizerError> {
        self.check_length(prompt)?;
        let ModelWrapper::WordLevel(model) = self.tokenizer.get_model() else { return Ok(Vec::new()) };
        let encoding = self.tokenizer.encode(prompt, false);
        let encoding = encoding.map_err(|error| TokenizerError::Failed { reason: error.to_string() })?;
        let mut words: Vec<String> = Vec::new();
        for (token, (start, end)) in encoding.get_tokens().iter().zip(encoding.get_offsets()) {
            let word = prompt.get(*start..*end).unwrap_or_default();
            if *token == model.unk_token && words.iter().all(|known| known != word) {
                words.push(word.to_owned());
            }
        }
        Ok(words)
    }

    fn check_length(&self, prompt: &str) -> Result<(), TokenizerError> {
        match prompt.chars().count() {
            chars if chars > MAX_PROMPT_CHARS => {
                Err(TokenizerError::TooLong { chars, max_length: self.max_length })
            }
            _ => Ok(()),
        }
    }
}

impl WanTokenizer {
    /// Reads a `tokenizer` folder, see [`PromptTokenizer::open`].
    ///
    /// The length of the rows is `model_max_length`, or 512 if it is missing or means that there is no limit.
    ///
    /// # Errors
    /// As [`PromptTokenizer::open`].
    pub fn open(folder: &Folder) -> Result<Self, CheckpointError> {
        PromptTokenizer::open(folder, TokenizerDefaults::T5).map(Self)
    }

    /// The tokenizer inside a file of weights, see [`PromptTokenizer::in_file`].
    ///
    /// # Errors
    /// As [`PromptTokenizer::in_file`].
    pub fn in_file(folder: &Folder, file: &str) -> Result<Option<Self>, CheckpointError> {
        Ok(PromptTokenizer::in_file(folder, file, TokenizerDefaults::T5)?.map(Self))
    }

    /// Tokens of a row.
    pub fn max_length(&self) -> usize {
        self.0.max_length()
    }

    /// Cleans a prompt and turns it into token ids, see [`PromptTokenizer::encode`].
    ///
    /// # Errors
    /// [`TokenizerError::TooLong`] beyond [`MAX_PROMPT_CHARS`] characters.
    pub fn encode(&self, prompt: &str) -> Result<TokenizedPrompt, TokenizerError> {
        self.0.check_length(prompt)?;
        self.0.encode(&clean_prompt(prompt))
    }

    /// Words that the vocabulary lacks, see [`PromptTokenizer::unknown_words`].
    ///
    /// # Errors
    /// [`TokenizerError::TooLong`] beyond [`MAX_PROMPT_CHARS`] characters.
    pub fn unknown_words(&self, prompt: &str) -> Result<Vec<String>, TokenizerError> {
        self.0.check_length(prompt)?;
        self.0.unknown_words(&clean_prompt(prompt))
    }
}
