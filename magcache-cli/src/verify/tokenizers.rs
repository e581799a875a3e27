//! Tokenizers: what becomes of prompts before they are encoded.

use anyhow::Result;
use magcache_models::text::{
    PromptTokenizer, Qwen3Thinking, Qwen3Tokenizer, TokenizedPrompt, TokenizerDefaults, WanTokenizer,
    clean_prompt, qwen3_chat,
};
use serde::Deserialize;

use super::{case::Case, report::CaseReport};

#[derive(Deserialize)]
struct Recorded {
    tokenizer: Kind,
    max_length: usize,
    /// The token that fills rows up.
    pad: u32,
    prompts: Vec<Row>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Wan,
    Clip,
    Qwen3,
}

/// A prompt and its tokens, without padding.
#[derive(Deserialize)]
struct Row {
    prompt: String,
    input_ids: Vec<u32>,
    /// Tokens that were cut off.
    truncated: usize,
    /// The prompt as Wan cleans it.
    cleaned: Option<String>,
    /// The conversation that Qwen3 reads.
    chat: Option<String>,
}

type Encode = Box<dyn Fn(&str) -> Result<TokenizedPrompt>>;

pub(super) fn check(case: &Case, report: &mut CaseReport) -> Result<()> {
    let Recorded { tokenizer, max_length, pad, prompts } = case.read()?;
    let folder = &case.folder;
    let (own_length, encode): (usize, Encode) = match tokenizer {
        Kind::Wan => {
            let own = WanTokenizer::open(folder)?;
            (own.max_length(), Box::new(move |prompt| Ok(own.encode(prompt)?)))
        }
        Kind::Clip => {
            let own = PromptTokenizer::open(folder, TokenizerDefaults::CLIP)?;
            (own.max_length(), Box::new(move |prompt| Ok(own.encode(prompt)?)))
        }
        Kind::Qwen3 => {
            let own = Qwen3Tokenizer::open(folder, Qwen3Thinking::Off)?.with_max_length(max_length)?;
            (own.max_length(), Box::new(move |prompt| Ok(own.encode(prompt)?)))
        }
    };
    report.equal("prompts", "length of a row", &own_length, &max_length);
    let mut differ = Vec::new();
    for row in &prompts {
        let (got, want) = (encode(&row.prompt)?, row.padded(max_length, pad));
        if got != want {
            differ.push(format!("{:?}: got {got:?}, expected {want:?}", row.prompt));
        }
    }
    report.count("prompts", "tokens", differ.len(), prompts.len(), differ.into_iter().next());
    let texts: Vec<(String, &String)> = prompts
        .iter()
        .flat_map(|row| {
            let cleaned = row.cleaned.iter().map(|want| (clean_prompt(&row.prompt), want));
            cleaned.chain(row.chat.iter().map(|want| (qwen3_chat(&row.prompt, Qwen3Thinking::Off), want)))
        })
        .collect();
    let wrong = texts.iter().filter(|(got, want)| got != *want).count();
    let first = texts.iter().find(|(got, want)| got != *want);
    let first = first.map(|(got, want)| format!("got {got:?}, expected {want:?}"));
    report.count("prompts", "texts", wrong, texts.len(), first);
    Ok(())
}

impl Row {
    fn padded(&self, max_length: usize, pad: u32) -> TokenizedPrompt {
        let (mut input_ids, len) = (self.input_ids.clone(), self.input_ids.len());
        input_ids.resize(max_length, pad);
        let attention_mask = (0..max_length).map(|i| u32::from(i < len)).collect();
        TokenizedPrompt { input_ids, attention_mask, len, truncated: self.truncated }
    }
}
