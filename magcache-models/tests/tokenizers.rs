//! Folders and prompts that tokenizers refuse. Their tokens are compared with those of transformers by
//! `magcache verify tests/fixtures/golden/tokenizers`.

mod support;

use std::{fs, path::Path};

use magcache_core::hint::Hint as _;
use magcache_models::{
    checkpoint::CheckpointError,
    text::{
        MAX_PROMPT_CHARS, PromptTokenizer, Qwen3Thinking, Qwen3Tokenizer, TokenizerDefaults, TokenizerError,
        WanTokenizer,
    },
};
use support::{copy_folder, edit_json, fixtures, folder, tiny_folder};

fn wan(path: impl AsRef<Path>) -> WanTokenizer {
    WanTokenizer::open(&folder(path.as_ref())).unwrap()
}

#[test]
fn a_clip_tokenizer_needs_its_vocabulary_and_merges() {
    let source = fixtures("flux_text/clip");
    let open = |path: &Path| PromptTokenizer::open(&folder(path), TokenizerDefaults::CLIP);
    let tokenizer = open(&source).unwrap();
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
fn a_conversation_has_the_length_of_the_published_pipeline() {
    let open = |thinking| Qwen3Tokenizer::open(&folder(fixtures("flux_text/qwen3")), thinking).unwrap();
    let [free, off] = [Qwen3Thinking::Free, Qwen3Thinking::Off].map(open);
    assert_eq!(off.max_length(), 512, "whatever the language model could read");
    let [free, off] = [free, off].map(|tokenizer| tokenizer.encode("a red cat").unwrap());
    assert!(off.len > free.len, "empty thoughts are tokens too");
    assert_eq!(off.input_ids[..free.len], free.input_ids[..free.len]);
}

#[test]
fn endless_prompts_are_refused_and_long_ones_are_cut_visibly() {
    let tokenizer = wan(tiny_folder().join("tokenizer"));
    let error = tokenizer.encode(&"é".repeat(100_000)).unwrap_err();
    assert!(matches!(error, TokenizerError::TooLong { chars: 100_000, .. }));
    assert_eq!(error.to_string(), "the prompt has 100000 characters, at most 20000 are accepted");
    assert!(error.hint().is_some());
    let longest = tokenizer.encode(&"a ".repeat(MAX_PROMPT_CHARS / 2)).unwrap();
    assert_eq!((longest.len, longest.truncated), (20, MAX_PROMPT_CHARS / 2 - 19));
    assert_eq!(longest.input_ids[19], 1, "the end token stays");
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
