//! Tokenizers against recorded runs of transformers, and folders and prompts that they refuse.

mod support;

use std::{fs, path::Path};

use magcache_core::hint::Hint as _;
use magcache_models::{
    checkpoint::CheckpointError,
    text::{
        MAX_PROMPT_CHARS, PromptTokenizer, Qwen3Tokenizer, TokenizedPrompt, TokenizerDefaults,
        TokenizerError, WanTokenizer, clean_prompt, qwen3_chat,
    },
};
use serde_json::Value;
use support::{copy_folder, edit_json, fixtures, folder, read_json, tiny_folder};

/// Prompts with what a tokenizer gave for them, without padding.
fn recorded(rows: &Value) -> Vec<&Value> {
    rows.as_array().unwrap().iter().collect()
}

/// A recorded row, padded.
fn padded(row: &Value, max_length: usize, pad: u32) -> TokenizedPrompt {
    let ids = row["input_ids"].as_array().unwrap();
    let mut input_ids: Vec<u32> = ids.iter().map(|id| id.as_u64().unwrap() as u32).collect();
    let len = input_ids.len();
    input_ids.resize(max_length, pad);
    let attention_mask = (0..max_length).map(|i| u32::from(i < len)).collect();
    TokenizedPrompt { input_ids, attention_mask, len, truncated: row["truncated"].as_u64().unwrap() as usize }
}

fn wan(path: impl AsRef<Path>) -> WanTokenizer {
    WanTokenizer::open(&folder(path.as_ref())).unwrap()
}

#[test]
fn wans_tokenizers_equal_transformers() {
    for (tokenizer, file) in [
        (wan(tiny_folder().join("tokenizer")), "tokenizer/wan_tiny.json"),
        (wan(fixtures("tokenizer/unigram")), "tokenizer/unigram.json"),
    ] {
        let file = read_json(&fixtures(file));
        let max_length = file["max_length"].as_u64().unwrap() as usize;
        assert_eq!(tokenizer.max_length(), max_length);
        let pad = file["pad"].as_u64().unwrap() as u32;
        let cases = recorded(&file["cases"]);
        assert!(cases.len() >= 30);
        for case in cases {
            let prompt = case["prompt"].as_str().unwrap();
            assert_eq!(clean_prompt(prompt), case["cleaned"].as_str().unwrap(), "{prompt:?}");
            assert_eq!(tokenizer.encode(prompt).unwrap(), padded(case, max_length, pad), "{prompt:?}");
        }
    }
}

#[test]
fn clip_tokens_from_vocabulary_and_merges_equal_transformers() {
    let file = read_json(&fixtures("flux_text/tokens.json"));
    let source = fixtures("flux_text/clip");
    let open = |path: &Path| PromptTokenizer::open(&folder(path), TokenizerDefaults::CLIP);
    let tokenizer = open(&source).unwrap();
    assert_eq!(tokenizer.max_length(), 77);
    let end = read_json(&source.join("vocab.json"))["<|endoftext|>"].as_u64().unwrap() as u32;
    for (prompt, row) in recorded(&file["prompts"]).into_iter().zip(recorded(&file["clip"])) {
        let prompt = prompt.as_str().unwrap();
        assert_eq!(tokenizer.encode(prompt).unwrap(), padded(row, 77, end), "{prompt:?}");
    }
    let long = tokenizer.encode(&"é".repeat(100_000));
    assert!(matches!(long, Err(TokenizerError::TooLong { chars: 100_000, max_length: 77 })));

    let copy = tempfile::tempdir().unwrap();
    copy_folder(&source, copy.path());
    fs::remove_file(copy.path().join("tokenizer_config.json")).unwrap();
    assert_eq!(open(copy.path()).unwrap().encode("a red").unwrap(), tokenizer.encode("a red").unwrap());
    edit_json(&copy.path().join("vocab.json"), |vocab| {
        vocab.as_object_mut().unwrap().remove("<|startoftext|>");
    });
    let message = open(copy.path()).unwrap_err().to_string();
    assert!(message.contains("vocab.json: the token \"<|startoftext|>\" is not in its"), "{message}");
    fs::remove_file(copy.path().join("merges.txt")).unwrap();
    let error = open(copy.path());
    assert!(
        matches!(error, Err(CheckpointError::MissingFile { file, .. }) if file.ends_with("tokenizer.json"))
    );
}

#[test]
fn the_conversation_equals_the_chat_template() {
    let file = read_json(&fixtures("flux_text/tokens.json"));
    let length = file["qwen3_length"].as_u64().unwrap() as usize;
    let source = fixtures("flux_text/qwen3");
    let tokenizer = Qwen3Tokenizer::open(&folder(&source)).unwrap();
    assert_eq!(tokenizer.max_length(), 512, "whatever the language model could read");
    let tokenizer = tokenizer.with_max_length(length).unwrap();
    let json = read_json(&source.join("tokenizer.json"));
    let mut added = json["added_tokens"].as_array().unwrap().iter();
    let pad = added.find(|token| token["content"] == TokenizerDefaults::QWEN3.pad).unwrap();
    let pad = pad["id"].as_u64().unwrap() as u32;
    for (prompt, row) in recorded(&file["prompts"]).into_iter().zip(recorded(&file["qwen3"])) {
        let prompt = prompt.as_str().unwrap();
        assert_eq!(qwen3_chat(prompt), row["chat"].as_str().unwrap());
        assert_eq!(tokenizer.encode(prompt).unwrap(), padded(row, length, pad), "{prompt:?}");
    }
}

#[test]
fn endless_prompts_are_refused_and_long_ones_are_cut_visibly() {
    let tokenizer = wan(tiny_folder().join("tokenizer"));
    let error = tokenizer.encode(&"é".repeat(100_000)).unwrap_err();
    assert!(matches!(error, TokenizerError::TooLong { chars: 100_000, .. }));
    assert_eq!(error.to_string(), "the prompt has 100000 characters, at most 20000 are accepted");
    assert!(error.hint().is_some());
    let longest = tokenizer.encode(&"a ".repeat(MAX_PROMPT_CHARS / 2)).unwrap();
    assert_eq!((longest.len, longest.truncated), (16, MAX_PROMPT_CHARS / 2 - 15));
    assert_eq!(longest.input_ids[15], 1, "the end token stays");
}

#[test]
fn tokenizer_folders_are_checked() {
    let root = tempfile::tempdir().unwrap();
    let folder = folder(root.path());
    assert!(matches!(WanTokenizer::open(&folder), Err(CheckpointError::MissingFile { .. })));
    fs::copy(tiny_folder().join("tokenizer/tokenizer.json"), root.path().join("tokenizer.json")).unwrap();
    assert_eq!(WanTokenizer::open(&folder).unwrap().max_length(), 512, "without a configuration");
    let open = |config: &str| {
        fs::write(root.path().join("tokenizer_config.json"), config).unwrap();
        WanTokenizer::open(&folder)
    };
    for (config, max_length) in [
        ("{}", 512),
        (r#"{"model_max_length": null}"#, 512),
        (r#"{"model_max_length": 1000000000000000019884624838656}"#, 512),
        (r#"{"model_max_length": 2, "pad_token": {"content": "<pad>"}}"#, 2),
    ] {
        assert_eq!(open(config).unwrap().max_length(), max_length, "{config}");
    }
    for (config, part) in [
        (r#"{"model_max_length": 1}"#, "model_max_length is 1, expected at least 2"),
        (r#"{"model_max_length": -5}"#, "model_max_length is 0"),
        (r#"{"pad_token": "<none>"}"#, "the padding token \"<none>\" is not in its vocabulary"),
        ("{", "cannot parse"),
    ] {
        let message = open(config).unwrap_err().to_string();
        assert!(message.contains(part), "{config}: {message}");
    }
    fs::write(root.path().join("tokenizer.json"), "{}").unwrap();
    assert!(matches!(open("{}"), Err(CheckpointError::Tokenizer { .. })));
}
