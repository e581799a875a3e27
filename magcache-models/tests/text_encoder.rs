//! Text encoders where recorded calls do not cover them, and tokenizers against transformers.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use magcache_core::hint::Hint as _;
use magcache_models::{
    checkpoint::{CheckpointError, Folder, WeightDtype, Weights},
    text::{
        MAX_PROMPT_CHARS, RelativePositions, T5Config, T5Encoder, TextError, TokenizedPrompt, TokenizerError,
        WanTokenizer, clean_prompt,
    },
    wan::WanTextEncoder,
};
use serde_json::Value;

/// The recordings are f32; rounding differs with the order of summation.
const TOLERANCE: f32 = 2e-5;

const CASES: [&str; 2] = ["umt5_wan", "t5_flux"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn fixtures(name: &str) -> PathBuf {
    root().join("tests/fixtures").join(name)
}

fn tiny() -> Folder {
    Folder::open(root().join("magcache-models/tiny/wan2.1-t2v-tiny")).unwrap()
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[track_caller]
fn assert_close(name: &str, ours: &Tensor, theirs: &Tensor, tolerance: f32) {
    assert_eq!(ours.dims(), theirs.dims(), "{name}");
    let error = (ours - theirs).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
    let error = error.to_scalar::<f32>().unwrap();
    assert!(error <= tolerance, "{name}: off by {error}, allowed {tolerance}");
}

struct Case {
    name: &'static str,
    folder: Folder,
    encoder: T5Encoder,
    golden: HashMap<String, Tensor>,
}

impl Case {
    fn open(name: &'static str) -> Self {
        let path = fixtures("golden/text_encoders").join(name);
        let folder = Folder::open(&path).unwrap();
        let weights = Weights::open(&folder, &Device::Cpu, WeightDtype::Keep).unwrap();
        let encoder = T5Encoder::load(&weights, &T5Config::read(&folder).unwrap()).unwrap();
        assert_eq!(weights.unused(), Vec::<&str>::new(), "{name}");
        Self {
            name,
            folder,
            encoder,
            golden: candle_core::safetensors::load(path.join("golden.safetensors"), &Device::Cpu).unwrap(),
        }
    }

    fn rows(&self, key: &str) -> Vec<Vec<u32>> {
        let rows = self.golden[key].to_vec2::<i64>().unwrap();
        rows.into_iter().map(|row| row.into_iter().map(|id| id as u32).collect()).collect()
    }
}

#[test]
fn one_token_needs_no_mask() {
    for case in CASES.map(Case::open) {
        let alone = case.encoder.forward(&[[1]], None).unwrap();
        let masked = case.encoder.forward(&[[1]], Some(&[[1]])).unwrap();
        assert_close(case.name, &alone, &masked, TOLERANCE);
        // Another way to the same result: the first of two tokens, the second of which is masked.
        let of_two = case.encoder.forward(&[[1, 2]], Some(&[[1, 0]])).unwrap().narrow(1, 0, 1).unwrap();
        assert_close(case.name, &alone, &of_two, TOLERANCE);
    }
}

#[test]
fn a_short_prompt_alone_is_computed_without_its_padding() {
    for case in CASES.map(Case::open) {
        let (ids, mask) = (case.rows("masked_b2.input_ids"), case.rows("masked_b2.attention_mask"));
        let prompt = |(input_ids, attention_mask): (Vec<u32>, Vec<u32>)| {
            let len = attention_mask.iter().sum::<u32>() as usize;
            TokenizedPrompt { input_ids, attention_mask, len, truncated: 0 }
        };
        let prompts: Vec<_> = ids.into_iter().zip(mask).map(prompt).collect();
        // As the reference computes it in a batch with a longer one.
        let alone = case.encoder.prompt_embeds(&prompts[..1]).unwrap();
        let theirs = case.golden["masked_b2.prompt_embeds"].narrow(0, 0, 1).unwrap();
        assert!(prompts[0].len < prompts[0].input_ids.len());
        assert_close(case.name, &alone, &theirs, TOLERANCE);
    }
}

#[test]
fn buckets_equal_transformers_for_the_sizes_of_published_models() {
    let recorded = json(&fixtures("tokenizer/buckets.json"));
    let first = recorded["first"].as_i64().unwrap();
    for size in recorded["sizes"].as_array().unwrap() {
        let mut config = Case::open("umt5_wan").encoder.config().clone();
        config.relative_attention_num_buckets = size["num_buckets"].as_u64().unwrap() as usize;
        config.relative_attention_max_distance = size["max_distance"].as_u64().unwrap() as usize;
        let positions = RelativePositions::new(&config);
        let theirs = ids(&size["buckets"]);
        let ours: Vec<_> = (first..).take(theirs.len()).map(|offset| positions.bucket(offset)).collect();
        assert_eq!(ours, theirs, "{config:?}");
    }
}

#[test]
fn half_precision_weights_stay_as_they_are_stored_and_compute_in_f32() {
    let case = Case::open("umt5_wan");
    let ids = case.rows("short_b1.input_ids");
    let load = |dtype| {
        let weights = Weights::open(&case.folder, &Device::Cpu, WeightDtype::Cast(dtype)).unwrap();
        T5Encoder::load(&weights, case.encoder.config()).unwrap().forward(&ids, None).unwrap()
    };
    let half = load(DType::BF16);
    assert_eq!(half.dtype(), DType::F32);
    let exact = load(DType::F32);
    let error = (&half - &exact).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
    let error = error.to_scalar::<f32>().unwrap();
    // Weights carry 8 bits, so results differ by some percent of values around 1.
    assert!(error > 1e-4 && error < 0.2, "{error}");
}

#[test]
fn misuse_is_named() {
    let encoder = Case::open("umt5_wan").encoder;
    let message =
        |ids: &[&[u32]], mask: Option<&[&[u32]]>| encoder.forward(ids, mask).unwrap_err().to_string();
    assert_eq!(message(&[&[5, 97]], None), "token 97 is outside the text encoder's vocabulary of 97");
    assert!(encoder.forward(&[&[5, 97]], None).unwrap_err().hint().is_some());
    assert_eq!(message(&[&[5, 6], &[7]], None), "row 1 of the token ids has 1 values, expected 2");
    assert_eq!(message(&[&[5, 6]], Some(&[&[1]])), "row 0 of the attention mask has 1 values, expected 2");
    assert_eq!(message(&[&[5]], Some(&[])), "the attention mask has 0 rows, the token ids have 1");
    assert!(matches!(encoder.forward::<&[u32]>(&[], None), Err(TextError::Empty { rows: 0 })));
    assert!(matches!(encoder.forward::<&[u32]>(&[&[]], None), Err(TextError::Empty { rows: 1 })));
    assert!(matches!(encoder.prompt_embeds(&[]), Err(TextError::Empty { .. })));
}

fn check_tokenizer(tokenizer: &WanTokenizer, recorded: &Value) {
    let max_length = recorded["max_length"].as_u64().unwrap() as usize;
    assert_eq!(tokenizer.max_length(), max_length);
    let pad = recorded["pad"].as_u64().unwrap() as u32;
    let cases = recorded["cases"].as_array().unwrap();
    assert!(cases.len() >= 30);
    for case in cases {
        let prompt = case["prompt"].as_str().unwrap();
        assert_eq!(clean_prompt(prompt), case["cleaned"].as_str().unwrap(), "{prompt:?}");
        let ours = tokenizer.encode(prompt).unwrap();
        let mut input_ids = ids(&case["input_ids"]);
        let len = input_ids.len();
        input_ids.resize(max_length, pad);
        let attention_mask = (0..max_length).map(|i| u32::from(i < len)).collect();
        let truncated = case["truncated"].as_u64().unwrap() as usize;
        assert_eq!(ours, TokenizedPrompt { input_ids, attention_mask, len, truncated }, "{prompt:?}");
    }
}

#[test]
fn tokenizers_equal_transformers() {
    let word_level = WanTokenizer::open(&tiny().sub("tokenizer")).unwrap();
    check_tokenizer(&word_level, &json(&fixtures("tokenizer/wan_tiny.json")));
    let unigram = WanTokenizer::open(&Folder::open(fixtures("tokenizer/unigram")).unwrap()).unwrap();
    check_tokenizer(&unigram, &json(&fixtures("tokenizer/unigram.json")));
}

#[test]
fn endless_prompts_are_refused_and_long_ones_are_cut_visibly() {
    let tokenizer = WanTokenizer::open(&tiny().sub("tokenizer")).unwrap();
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
    let source = tiny().sub("tokenizer").read("tokenizer.json").unwrap();
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::open(root.path()).unwrap();
    assert!(matches!(WanTokenizer::open(&folder), Err(CheckpointError::MissingFile { .. })));
    fs::write(root.path().join("tokenizer.json"), &source).unwrap();
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

#[test]
fn the_small_models_encoder_equals_transformers() {
    let path = fixtures("tokenizer/wan_tiny.safetensors");
    let theirs = &candle_core::safetensors::load(&path, &Device::Cpu).unwrap()["prompt_embeds"];
    let recorded = json(&fixtures("tokenizer/wan_tiny.json"));
    let prompt = |index: usize| recorded["cases"][index]["prompt"].as_str().unwrap();
    // ENCODED of tokenizer_fixture.py: plain, empty, unknown words, too long.
    let prompts = [0, 1, 3, 7, 19].map(prompt);
    let encoder = WanTextEncoder::load(&tiny(), &Device::Cpu, WeightDtype::Keep).unwrap();
    let ours = encoder.encode(&prompts).unwrap();
    assert_eq!(ours.dims(), [5, encoder.max_length(), 64]);
    assert_close("tiny", &ours, theirs, TOLERANCE);
    for (index, prompt) in prompts.iter().enumerate() {
        let alone = encoder.encode(&[prompt]).unwrap();
        assert_close(prompt, &alone, &theirs.narrow(0, index, 1).unwrap(), TOLERANCE);
    }
}
