//! Text conditioning of Flux against recorded runs of transformers and diffusers.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use magcache_models::{
    checkpoint::{CheckpointError, Folder, WeightDtype, Weights},
    clip::{ClipTextConfig, ClipTextEncoder},
    flux::FluxTextEncoder,
    text::{
        KLEIN_LAYERS, PromptTokenizer, Qwen3Config, Qwen3Encoder, Qwen3Tokenizer, TextError, TokenizedPrompt,
        TokenizerDefaults, TokenizerError, qwen3_chat,
    },
};
use serde_json::Value;

mod support;
use support::{copy_folder, edit_json, tiny_folder};

/// The recordings are f32; rounding differs with the order of summation.
const TOLERANCE: f32 = 2e-5;

const CLIP: &str = "golden/text_encoders/clip_text_flux_legacy_eos_seed3";
const QWEN3: &str = "golden/text_encoders/qwen3_flux2_klein_seed28";

fn fixtures(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

fn folder(path: impl Into<PathBuf>) -> Folder {
    Folder::open(path).unwrap()
}

fn tiny() -> PathBuf {
    tiny_folder().with_file_name("tiny-flux")
}

fn tokens() -> Value {
    serde_json::from_str(&fs::read_to_string(fixtures("flux_text/tokens.json")).unwrap()).unwrap()
}

fn tensors(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(fixtures(name), &Device::Cpu).unwrap()
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

fn rows(tensor: &Tensor) -> Vec<Vec<u32>> {
    let rows = tensor.to_vec2::<i64>().unwrap();
    rows.into_iter().map(|row| row.into_iter().map(|id| id as u32).collect()).collect()
}

#[track_caller]
fn assert_close(name: &str, ours: &Tensor, theirs: &Tensor) {
    assert_eq!(ours.dims(), theirs.dims(), "{name}");
    let error = worst(ours, theirs);
    assert!(error <= TOLERANCE, "{name}: off by {error}");
}

fn worst(ours: &Tensor, theirs: &Tensor) -> f32 {
    (ours - theirs).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

/// A recorded row, padded.
fn expected(row: &Value, max_length: usize, pad: u32) -> TokenizedPrompt {
    let ids = row["input_ids"].as_array().unwrap();
    let mut input_ids: Vec<u32> = ids.iter().map(|id| id.as_u64().unwrap() as u32).collect();
    let len = input_ids.len();
    input_ids.resize(max_length, pad);
    let attention_mask = (0..max_length).map(|i| u32::from(i < len)).collect();
    TokenizedPrompt { input_ids, attention_mask, len, truncated: row["truncated"].as_u64().unwrap() as usize }
}

#[test]
fn embeddings_are_those_of_the_pipeline() {
    let (tokens, theirs) = (tokens(), tensors("flux_text/embeds.safetensors"));
    let prompts = strings(&tokens["flux_prompts"]);
    let encoder = FluxTextEncoder::load(&folder(tiny()), &Device::Cpu, WeightDtype::Keep).unwrap();
    assert_eq!(encoder.max_sequence_length(), 16, "what tokenizer_2 says");
    for (length, prompts) in [(8, &prompts[1..]), (17, &prompts[..1])] {
        let encoder = encoder.clone().with_max_sequence_length(length).unwrap();
        let ours = encoder.encode(prompts).unwrap();
        assert_close("prompt_embeds", &ours.prompt_embeds, &theirs[&format!("prompt_embeds.{length}")]);
        let pooled = &theirs[&format!("pooled_prompt_embeds.{length}")];
        assert_close("pooled", &ours.pooled_prompt_embeds, pooled);
    }
    let pair = encoder.clone().with_max_sequence_length(4).unwrap();
    let pair = pair.encode_tokens(&[pair.tokenize(prompts[0], Some(prompts[1])).unwrap()]).unwrap();
    assert_close("pair", &pair.prompt_embeds, &theirs["prompt_embeds.pair"]);
    assert_close("pair, pooled", &pair.pooled_prompt_embeds, &theirs["pooled_prompt_embeds.pair"]);

    let long = encoder.tokenize(prompts[2], None).unwrap();
    assert_eq!((long.clip.truncated, long.t5.truncated), (27 - 15, 27 - 15));
    assert!(matches!(encoder.encode(&[]), Err(TextError::Empty { rows: 0 })));
    for (length, message) in [
        (1, "rows of 1 tokens were asked for, expected 2 to 512"),
        (513, "rows of 513 tokens were asked for, expected 2 to 512"),
    ] {
        assert_eq!(encoder.clone().with_max_sequence_length(length).unwrap_err().to_string(), message);
    }
}

#[test]
fn old_configurations_pool_at_the_largest_id() {
    let (tokens, theirs) = (tokens(), tensors("flux_text/embeds.safetensors"));
    let copy = tempfile::tempdir().unwrap();
    copy_folder(&tiny(), copy.path());
    edit_json(&copy.path().join("text_encoder/config.json"), |config| config["eos_token_id"] = 2.into());
    let load = || FluxTextEncoder::load(&folder(copy.path()), &Device::Cpu, WeightDtype::Keep);
    let ours = load().unwrap().encode(&strings(&tokens["flux_prompts"])).unwrap();
    assert_close("legacy", &ours.pooled_prompt_embeds, &theirs["pooled_legacy"]);

    edit_json(&copy.path().join("tokenizer/tokenizer_config.json"), |c| c["model_max_length"] = 17.into());
    let message = load().unwrap_err().to_string();
    let part = "model_max_length is 17, max_position_embeddings of the text encoder is 16";
    assert!(message.contains(part), "{message}");
}

#[test]
fn clip_text_equals_transformers_under_both_names() {
    let case = folder(fixtures(CLIP));
    let golden = tensors(&format!("{CLIP}/golden.safetensors"));
    let config = ClipTextConfig::read(&case).unwrap();
    let weights = Weights::open(&case, &Device::Cpu, WeightDtype::Keep).unwrap();
    let encoder = ClipTextEncoder::load(&weights, &config).unwrap();
    assert_eq!(weights.unused(), Vec::<&str>::new());
    drop(weights);
    let bare = Weights::open(&case, &Device::Cpu, WeightDtype::Keep).unwrap();
    let bare = bare.renamed(|name| name.strip_prefix("text_model.").map(str::to_owned)).unwrap();
    let bare = ClipTextEncoder::load(&bare, &config).unwrap();
    for call in ["b2", "short_b1"] {
        let ids = rows(&golden[&format!("{call}.input_ids")]);
        for encoder in [&encoder, &bare] {
            let ours = encoder.forward(&ids).unwrap();
            assert_close(call, &ours.last_hidden_state, &golden[&format!("{call}.last_hidden_state")]);
            assert_close(call, &ours.pooler_output, &golden[&format!("{call}.pooler_output")]);
        }
    }
    for (i, state) in encoder.hidden_states(&rows(&golden["b2.input_ids"])).unwrap().iter().enumerate() {
        assert_close("state", state, &golden[&format!("b2.hidden_states.{i}")]);
    }
    let half = Weights::open(&case, &Device::Cpu, WeightDtype::Cast(DType::BF16)).unwrap();
    let half =
        ClipTextEncoder::load(&half, &config).unwrap().forward(&rows(&golden["b2.input_ids"])).unwrap();
    let error = worst(&half.pooler_output, &golden["b2.pooler_output"]);
    assert!(error > 1e-4 && error < 0.2, "{error}");
    let max = config.max_position_embeddings;
    let message = encoder.forward(&[vec![5; max + 1]]).unwrap_err().to_string();
    assert_eq!(message, format!("got {} tokens, the text encoder reads at most {max}", max + 1));
}

#[test]
fn qwen3_equals_transformers_and_loads_only_what_is_chosen() {
    let case = folder(fixtures(QWEN3));
    let golden = tensors(&format!("{QWEN3}/golden.safetensors"));
    let (ids, mask) = (rows(&golden["b2.input_ids"]), rows(&golden["b2.attention_mask"]));
    let config = Qwen3Config::read(&case).unwrap();
    let weights = Weights::open(&case, &Device::Cpu, WeightDtype::Keep).unwrap();
    let encoder = Qwen3Encoder::load(&weights, &config, &[2, 3, 5]).unwrap();
    let unused = weights.unused();
    let late = |name: &&&str| name.starts_with("model.layers.5.") || **name == "model.norm.weight";
    assert_eq!((unused.len(), unused.iter().filter(late).count()), (11 + 1, 11 + 1), "{unused:?}");
    assert_close("klein", &encoder.forward(&ids, Some(&mask)).unwrap(), &golden["b2.prompt_embeds"]);
    let every: Vec<usize> = (0..=config.num_hidden_layers).collect();
    let all = Qwen3Encoder::load(&weights, &config, &every).unwrap();
    for (k, state) in all.hidden_states(&ids, Some(&mask)).unwrap().iter().enumerate() {
        assert_close("state", state, &golden[&format!("b2.hidden_states.{k}")]);
    }
    assert_eq!(weights.unused(), Vec::<&str>::new());
    drop(weights);

    // Tokens do not see later tokens, and no token sees padding.
    let other =
        |from: usize| ids.iter().map(|row| [&row[..from], &vec![7; 12 - from]].concat()).collect::<Vec<_>>();
    let head = |rows: &[Vec<u32>], mask: &[Vec<u32>]| {
        encoder.forward(rows, Some(mask)).unwrap().narrow(1, 0, 4).unwrap()
    };
    assert_close("causal", &head(&ids, &mask), &head(&other(4), &mask));
    let hole = vec![vec![1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]; 2];
    let with = |id: u32| {
        let mut ids = ids.clone();
        ids.iter_mut().for_each(|row| row[2] = id);
        encoder.forward(&ids, Some(&hole)).unwrap().narrow(1, 3, 9).unwrap()
    };
    assert_close("padding", &with(3), &with(4));

    let bare = Weights::open(&case, &Device::Cpu, WeightDtype::Keep).unwrap();
    let bare = bare.renamed(|name| name.strip_prefix("model.").map(str::to_owned)).unwrap();
    let again = Qwen3Encoder::load(&bare, &config, &[2, 3, 5]).unwrap();
    assert_close("bare", &again.forward(&ids, Some(&mask)).unwrap(), &golden["b2.prompt_embeds"]);
    for (layers, part) in [(&KLEIN_LAYERS[..], "hidden states of layer 27"), (&[], "hidden states of none")] {
        let message = Qwen3Encoder::load(&bare, &config, layers).unwrap_err().to_string();
        assert!(message.contains("num_hidden_layers is 6") && message.contains(part), "{message}");
    }
}

#[test]
fn clip_tokens_from_vocabulary_and_merges_equal_transformers() {
    let recorded = tokens();
    let source = fixtures("flux_text/clip");
    let tokenizer = PromptTokenizer::open(&folder(&source), TokenizerDefaults::CLIP).unwrap();
    assert_eq!(tokenizer.max_length(), 77);
    let vocab: HashMap<String, u32> =
        serde_json::from_str(&fs::read_to_string(source.join("vocab.json")).unwrap()).unwrap();
    let end = vocab["<|endoftext|>"];
    for (prompt, row) in strings(&recorded["prompts"]).into_iter().zip(recorded["clip"].as_array().unwrap()) {
        assert_eq!(tokenizer.encode(prompt).unwrap(), expected(row, 77, end), "{prompt:?}");
    }
    let long = tokenizer.encode(&"é".repeat(100_000));
    assert!(matches!(long, Err(TokenizerError::TooLong { chars: 100_000, max_length: 77 })));

    let copy = tempfile::tempdir().unwrap();
    copy_folder(&source, copy.path());
    let open = || PromptTokenizer::open(&folder(copy.path()), TokenizerDefaults::CLIP);
    fs::remove_file(copy.path().join("tokenizer_config.json")).unwrap();
    assert_eq!(open().unwrap().encode("a red").unwrap(), tokenizer.encode("a red").unwrap());
    edit_json(&copy.path().join("vocab.json"), |vocab| {
        vocab.as_object_mut().unwrap().remove("<|startoftext|>");
    });
    let message = open().unwrap_err().to_string();
    assert!(message.contains("vocab.json: the token \"<|startoftext|>\" is not in its"), "{message}");
    fs::remove_file(copy.path().join("merges.txt")).unwrap();
    assert!(
        matches!(open(), Err(CheckpointError::MissingFile { file, .. }) if file.ends_with("tokenizer.json"))
    );
}

#[test]
fn the_conversation_equals_the_chat_template() {
    let recorded = tokens();
    let length = recorded["qwen3_length"].as_u64().unwrap() as usize;
    let source = fixtures("flux_text/qwen3");
    let tokenizer = Qwen3Tokenizer::open(&folder(&source)).unwrap();
    assert_eq!(tokenizer.max_length(), 512, "whatever the language model could read");
    let tokenizer = tokenizer.with_max_length(length).unwrap();
    let pad = TokenizerDefaults::QWEN3.pad;
    let json: Value =
        serde_json::from_str(&fs::read_to_string(source.join("tokenizer.json")).unwrap()).unwrap();
    let added = json["added_tokens"].as_array().unwrap();
    let pad = added.iter().find(|token| token["content"] == pad).unwrap()["id"].as_u64().unwrap() as u32;
    for (prompt, row) in strings(&recorded["prompts"]).into_iter().zip(recorded["qwen3"].as_array().unwrap())
    {
        assert_eq!(qwen3_chat(prompt), row["chat"].as_str().unwrap());
        assert_eq!(tokenizer.encode(prompt).unwrap(), expected(row, length, pad), "{prompt:?}");
    }
}
