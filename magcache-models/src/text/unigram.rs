//! The tokenizer of T5 and UMT5 inside a file of weights: the fields of a GGUF file, or the sentencepiece
//! model that ComfyUI's files have in a tensor.
//!
//! Both hold a unigram model with byte fallback, its normaliser's table and the kinds of its pieces, which
//! become a `tokenizer.json`. Difference from transformers: control tokens that are written in a prompt are
//! text, as in sentencepiece.

mod sentencepiece;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::checkpoint::Weights;

/// Tensors that may hold a sentencepiece model.
const MODELS: [&str; 2] = ["spiece_model", "text_encoders.spiece_model"];

/// What a piece of the vocabulary is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Part of a text.
    Normal,
    /// Stands for what the vocabulary lacks.
    Unknown,
    /// Around a text or in place of one.
    Control,
    /// One byte of what the vocabulary lacks.
    Byte,
}

impl Kind {
    /// By its number in sentencepiece and in GGUF.
    fn of(number: u64) -> Self {
        match number {
            2 => Self::Unknown,
            3 | 5 => Self::Control,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }
}

/// A unigram model.
#[derive(Debug)]
pub(super) struct Unigram {
    pieces: Vec<(String, f64, Kind)>,
    /// The normaliser's table.
    charsmap: Vec<u8>,
    space_in_front: bool,
    single_spaces: bool,
    /// Ends every row.
    end: usize,
    /// Fills rows up.
    pub(super) pad: u32,
}

impl Unigram {
    /// The tokenizer in a file, if there is one; an error says what is wrong with it.
    pub(super) fn of(file: &Weights) -> Option<Result<Self, String>> {
        if file.text("tokenizer.ggml.model") == Some("t5") {
            return Some(
                Self::of_gguf(file).ok_or_else(|| "its tokenizer.ggml fields do not fit".to_owned()),
            );
        }
        let model = MODELS.iter().find_map(|name| file.bytes(name))?;
        Some(Self::of_sentencepiece(model))
    }

    /// From the bytes of sentencepiece's own file; an error says what is wrong with them.
    pub(super) fn of_sentencepiece(model: &[u8]) -> Result<Self, String> {
        sentencepiece::read(model).ok_or_else(|| "its sentencepiece model is damaged".to_owned())
    }

    fn of_gguf(file: &Weights) -> Option<Self> {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let texts = file.texts(&key("tokens"))?;
        let (scores, kinds) = (file.numbers(&key("scores"))?, file.numbers(&key("token_type"))?);
        if scores.len() != texts.len() || kinds.len() != texts.len() {
            return None;
        }
        let pieces = texts.into_iter().zip(scores).zip(kinds);
        let flag = |name: &str| file.number(&key(name)).is_none_or(|set| set != 0.0);
        let id = |name: &str, usual: f64| file.number(&key(name)).unwrap_or(usual) as u32;
        Some(Self {
            pieces: pieces.map(|((text, score), kind)| (text, score, Kind::of(kind as u64))).collect(),
            charsmap: file.raw(&key("precompiled_charsmap")).unwrap_or_default().to_vec(),
            space_in_front: flag("add_space_prefix"),
            single_spaces: flag("remove_extra_whitespaces"),
            end: id("eos_token_id", 1.0) as usize,
            pad: id("padding_token_id", 0.0),
        })
    }

    /// As a `tokenizer.json`.
    pub(super) fn json(&self) -> Vec<u8> {
        let mut normalizers = Vec::new();
        if !self.charsmap.is_empty() {
            let table = STANDARD.encode(&self.charsmap);
            normalizers.push(json!({ "type": "Precompiled", "precompiled_charsmap": table }));
        }
        if self.single_spaces {
            normalizers.push(json!({ "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": " " }));
            normalizers.push(json!({ "type": "Strip", "strip_left": true, "strip_right": true }));
        }
        let vocabulary: Vec<Value> = self
            .pieces
            .iter()
            .map(|(text, score, kind)| match kind {
                // No prompt contains these characters, so that none is taken for the token.
                Kind::Control | Kind::Unknown => json!([format!("\u{10ffff}{text}\u{10ffff}"), score]),
                _ => json!([text, score]),
            })
            .collect();
        let unknown = self.pieces.iter().position(|(.., kind)| *kind == Kind::Unknown);
        let bytes = self.pieces.iter().any(|(.., kind)| *kind == Kind::Byte);
        let end = self.pieces.get(self.end).map_or("</s>", |(text, ..)| text.as_str());
        let of_text = json!({ "Sequence": { "id": "A", "type_id": 0 } });
        let of_end = json!({ "SpecialToken": { "id": end, "type_id": 0 } });
        let json = json!({
            "version": "1.0",
            "added_tokens": [],
            "normalizer": { "type": "Sequence", "normalizers": normalizers },
            "pre_tokenizer": {
                "type": "Metaspace", "replacement": "▁", "split": true,
                "prepend_scheme": if self.space_in_front { "always" } else { "never" }
            },
            "post_processor": {
                "type": "TemplateProcessing", "single": [of_text, of_end], "pair": [of_text, of_end],
                "special_tokens": { end: { "id": end, "ids": [self.end], "tokens": [end] } }
            },
            "decoder": null,
            "model": { "type": "Unigram", "unk_id": unknown, "vocab": vocabulary, "byte_fallback": bytes }
        });
        json.to_string().into_bytes()
    }
}
