//! Where the text encoders and the tokenizers of a FLUX.1 model are.

use candle_core::Device;

use crate::{
    checkpoint::{
        Adapter, AdapterNames, AdapterPart, AdapterReport, CheckpointError, Folder, WeightDtype, Weights,
    },
    clip::ClipTextConfig,
    flux::flux1::native::ADAPTER,
    pipeline::{GivenFiles, PartFile},
    recognise::{self, Role},
    text::{PromptTokenizer, T5Config, T5File, TokenizerDefaults, TokenizerKind, open_t5},
};

/// The names that adapters use for the encoders.
const CLIP: AdapterNames = ADAPTER.of(AdapterPart::Clip);
const T5: AdapterNames = ADAPTER.of(AdapterPart::T5);

/// Folders of a model in diffusers' layout: CLIP's and T5's.
const ENCODERS: [&str; 2] = ["text_encoder", "text_encoder_2"];
const TOKENIZERS: [&str; 2] = ["tokenizer", "tokenizer_2"];

/// Where what is missing is usually found.
const ENCODER_FILES: &str = "the text encoders and tokenizers in the folders that diffusers has them in, or --text-encoder \
                             FILE: clip_l.safetensors and t5xxl_fp8_e4m3fn.safetensors of \
                             comfyanonymous/flux_text_encoders";
const CLIP_TOKENIZER: &str = "no file of weights has it: --tokenizer openai/clip-vit-large-patch14, or a folder with its \
                              vocab.json and merges.txt, or with the folder `tokenizer` of a FLUX.1 model";
const T5_TOKENIZER: &str = "GGUF files of T5 have it inside; else --tokenizer google/t5-v1_1-xxl, or a folder with its \
                            spiece.model or tokenizer.json, or with the folder `tokenizer_2` of a FLUX.1 model";

/// The text encoders of a model: in its folder, or in files in place of them.
#[derive(Clone, Debug)]
pub struct FluxTextParts {
    model: Folder,
    /// CLIP and T5 in files.
    files: [Option<PartFile>; 2],
    /// Their tokenizers in other folders.
    tokenizers: [Option<Folder>; 2],
}

impl FluxTextParts {
    /// The folders `tokenizer`, `text_encoder`, `tokenizer_2` and `text_encoder_2` of a model, or what is
    /// given in place of them.
    ///
    /// # Errors
    /// A given file without a text encoder; an encoder that is nowhere.
    pub fn new(model: Folder, given: &GivenFiles) -> Result<Self, CheckpointError> {
        let files = [given.part(Role::TextEncoderClip)?, given.part(Role::TextEncoder)?];
        let tokenizers = [given.tokenizer(TokenizerKind::Bpe)?, given.tokenizer(TokenizerKind::Unigram)?];
        for (file, encoder) in files.iter().zip(ENCODERS) {
            let folder = model.sub(encoder);
            if file.is_none() && !folder.exists("config.json") {
                let (file, expected) = (folder.describe_file("config.json"), ENCODER_FILES.to_owned());
                return Err(CheckpointError::MissingFile { file, expected });
            }
        }
        Ok(Self { model, files, tokenizers })
    }

    /// Tokens of T5's rows.
    ///
    /// # Errors
    /// A `tokenizer_config.json` that cannot be read.
    pub fn text_tokens(&self) -> Result<usize, CheckpointError> {
        let [_, folder] = self.tokenizer_folders();
        PromptTokenizer::max_length_in(&folder, TokenizerDefaults::T5)
    }

    /// The folders in which the tokenizers are looked for.
    pub(super) fn tokenizer_folders(&self) -> [Folder; 2] {
        let [clip, t5] = &self.tokenizers;
        let own = |given: &Option<Folder>, name| given.clone().unwrap_or_else(|| self.model.sub(name));
        let [of_clip, of_t5] = TOKENIZERS;
        [own(clip, of_clip), own(t5, of_t5)]
    }

    /// CLIP's tokenizer and T5's, which may be in T5's file.
    pub(super) fn tokenizers(&self) -> Result<[PromptTokenizer; 2], CheckpointError> {
        let [clip, t5] = self.tokenizer_folders();
        if !PromptTokenizer::is_in(&clip) {
            let hint = format!("looked in {}; {CLIP_TOKENIZER}", clip.describe());
            return Err(CheckpointError::MissingPart { part: "CLIP tokenizer", hint });
        }
        let [_, file] = &self.files;
        let inside = match file {
            Some(PartFile { folder, file, .. }) if !PromptTokenizer::is_in(&t5) => {
                PromptTokenizer::in_file(folder, file, TokenizerDefaults::T5)?
            }
            _ => None,
        };
        let of_t5 = match inside {
            Some(inside) => inside,
            None if PromptTokenizer::is_in(&t5) => PromptTokenizer::open(&t5, TokenizerDefaults::T5)?,
            None => {
                let hint = format!("looked in {} and in T5's file; {T5_TOKENIZER}", t5.describe());
                return Err(CheckpointError::MissingPart { part: "T5 tokenizer", hint });
            }
        };
        Ok([PromptTokenizer::open(&clip, TokenizerDefaults::CLIP)?, of_t5])
    }

    /// CLIP: its sizes and its tensors.
    ///
    /// # Errors
    /// A fault of the folder or the file.
    pub fn clip(
        &self,
        device: &Device,
        dtype: WeightDtype,
    ) -> Result<(ClipTextConfig, Weights), CheckpointError> {
        let ([file, _], [encoder, _]) = (&self.files, ENCODERS);
        match file {
            None => {
                let folder = self.model.sub(encoder);
                Ok((ClipTextConfig::read(&folder)?, Weights::open(&folder, device, dtype)?))
            }
            Some(PartFile { folder, file, .. }) => {
                let weights = recognise::open(folder, file, Role::TextEncoderClip, device, dtype)?;
                Ok((ClipTextConfig::of(&weights)?, weights))
            }
        }
    }

    /// T5: its sizes and its tensors.
    ///
    /// # Errors
    /// A fault of the folder or the file.
    pub fn t5(&self, device: &Device, dtype: WeightDtype) -> Result<(T5Config, Weights), CheckpointError> {
        let ([_, file], [_, encoder]) = (&self.files, ENCODERS);
        match file {
            None => {
                let folder = self.model.sub(encoder);
                Ok((T5Config::read(&folder)?, Weights::open(&folder, device, dtype)?))
            }
            Some(PartFile { folder, file, .. }) => {
                let T5File { config, weights, .. } = open_t5(folder, file, device, dtype)?;
                Ok((config, weights))
            }
        }
    }

    /// The tensors of both as the adapters' parts for them change them, and what was done.
    pub(super) fn adapted(
        &self,
        adapters: &[Adapter],
        device: &Device,
        dtype: WeightDtype,
    ) -> Result<([Weights; 2], Vec<AdapterReport>), CheckpointError> {
        let (clip, mut reports) = self.clip(device, dtype)?.1.adapted(adapters, &CLIP, 0)?;
        let (t5, of_t5) = self.t5(device, dtype)?.1.adapted(adapters, &T5, 0)?;
        reports.extend(of_t5);
        Ok(([clip, t5], reports))
    }

    /// What adapters do to the encoders.
    ///
    /// # Errors
    /// Faults of the encoders; adapters that do not fit them.
    pub fn adapters(&self, adapters: &[Adapter]) -> Result<Vec<AdapterReport>, CheckpointError> {
        if adapters.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.adapted(adapters, &Device::Cpu, WeightDtype::Keep)?.1)
    }
}
