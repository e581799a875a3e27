//! Encoders of prompts and pictures: what they load and refuse, and where `verify`'s recorded cases end.

mod support;

use std::fs;

use candle_core::{DType, Tensor};
use magcache_core::hint::Hint as _;
use magcache_models::{
    checkpoint::{CheckpointError, WeightDtype, Weights},
    clip::{ClipTextConfig, ClipTextEncoder, ClipVisionConfig, ClipVisionEncoder},
    flux::FluxTextEncoder,
    image::Picture,
    text::{KLEIN_LAYERS, Qwen3Config, Qwen3Encoder, RelativePositions, T5Config, T5Encoder, TextError},
    wan::WanImageEncoder,
};
use support::{
    DEVICE, KEEP, bits, copy_folder, edit_json, fixtures, folder, read_json, tiny, values, waves, worst,
};

/// Results in f32 differ by rounding if the order of summation does.
const TOLERANCE: f32 = 2e-5;

const CLIP: &str = "clip_text_flux_legacy_eos_seed3";
const VISION: &str = "clip_vision_wan_i2v";
const QWEN3: &str = "qwen3_flux2_klein_seed28";

/// The encoder of a recorded case.
fn case(name: &str) -> std::path::PathBuf {
    fixtures("golden/text_encoders").join(name)
}

fn weights(name: &str, dtype: WeightDtype) -> Weights {
    Weights::open(&folder(case(name)), &DEVICE, dtype).unwrap()
}

/// The same with shorter names, as some files have them.
fn bare(name: &str, prefix: &str) -> Weights {
    weights(name, KEEP).renamed(|name| name.strip_prefix(prefix).map(str::to_owned)).unwrap()
}

fn t5(name: &str, dtype: WeightDtype) -> T5Encoder {
    T5Encoder::load(&weights(name, dtype), &T5Config::read(&folder(case(name))).unwrap()).unwrap()
}

fn clip(weights: &Weights) -> ClipTextEncoder {
    ClipTextEncoder::load(weights, &ClipTextConfig::read(&folder(case(CLIP))).unwrap()).unwrap()
}

fn vision_config() -> ClipVisionConfig {
    ClipVisionConfig::read(&folder(case(VISION))).unwrap()
}

fn vision(weights: &Weights) -> ClipVisionEncoder {
    ClipVisionEncoder::load(weights, &vision_config()).unwrap()
}

fn pixels() -> Tensor {
    let size = vision_config().image_size;
    waves(&[2, 3, size, size], 0.37)
}

#[test]
fn names_without_a_prefix_load_to_the_same_encoder() {
    let ids = [[5, 9, 2, 7]];
    let forward = |weights: &Weights| values(&clip(weights).forward(&ids).unwrap().pooler_output);
    assert_eq!(forward(&bare(CLIP, "text_model.")), forward(&weights(CLIP, KEEP)));
    let forward = |weights: &Weights| values(&vision(weights).forward(&pixels()).unwrap());
    assert_eq!(forward(&bare(VISION, "vision_model.")), forward(&weights(VISION, KEEP)));
    let config = Qwen3Config::read(&folder(case(QWEN3))).unwrap();
    let forward = |weights: &Weights| {
        values(&Qwen3Encoder::load(weights, &config, &[2, 3, 5]).unwrap().forward(&ids, None).unwrap())
    };
    assert_eq!(forward(&bare(QWEN3, "model.")), forward(&weights(QWEN3, KEEP)));
}

#[test]
fn half_precision_weights_stay_as_they_are_stored_and_compute_in_f32() {
    let ids = [[5, 9, 2, 7]];
    for (name, most, forward) in [
        // Weights carry 8 bits, so results differ by some percent of values around 1.
        (
            "umt5_wan",
            0.2,
            &(|dtype| t5("umt5_wan", dtype).forward(&ids, None).unwrap()) as &dyn Fn(_) -> Tensor,
        ),
        (CLIP, 0.2, &|dtype| clip(&weights(CLIP, dtype)).forward(&ids).unwrap().pooler_output),
        (VISION, 0.1, &|dtype| vision(&weights(VISION, dtype)).forward(&pixels()).unwrap()),
    ] {
        let half = forward(WeightDtype::Cast(DType::BF16));
        assert_eq!(half.dtype(), DType::F32, "{name}");
        let error = worst(&half, &forward(KEEP));
        assert!(error > 1e-4 && error < most, "{name}: {error}");
    }
}

#[test]
fn only_what_is_read_is_loaded() {
    let all = weights(VISION, KEEP);
    vision(&all);
    let unused = all.unused();
    assert_eq!(unused.len(), 16 + 2);
    let last = |name: &&&str| name.contains("layers.2.") || name.contains("post_layernorm");
    assert_eq!(unused.iter().filter(last).count(), unused.len(), "{unused:?}");

    let all = weights(QWEN3, KEEP);
    let config = Qwen3Config::read(&folder(case(QWEN3))).unwrap();
    Qwen3Encoder::load(&all, &config, &[2, 3, 5]).unwrap();
    let unused = all.unused();
    let late = |name: &&&str| name.starts_with("model.layers.5.") || **name == "model.norm.weight";
    assert_eq!((unused.len(), unused.iter().filter(late).count()), (11 + 1, 11 + 1), "{unused:?}");
    for (layers, part) in [(&KLEIN_LAYERS[..], "hidden states of layer 27"), (&[], "hidden states of none")] {
        let message = Qwen3Encoder::load(&all, &config, layers).unwrap_err().to_string();
        assert!(message.contains("num_hidden_layers is 6") && message.contains(part), "{message}");
    }
}

#[test]
fn one_token_needs_no_mask() {
    for name in ["umt5_wan", "t5_flux"] {
        let encoder = t5(name, KEEP);
        let alone = encoder.forward(&[[1]], None).unwrap();
        let masked = encoder.forward(&[[1]], Some(&[[1]])).unwrap();
        assert!(worst(&alone, &masked) <= TOLERANCE, "{name}");
        // Another way to the same result: the first of two tokens, the second of which is masked.
        let of_two = encoder.forward(&[[1, 2]], Some(&[[1, 0]])).unwrap().narrow(1, 0, 1).unwrap();
        assert!(worst(&alone, &of_two) <= TOLERANCE, "{name}");
    }
}

#[test]
fn tokens_of_qwen3_see_neither_later_ones_nor_padding() {
    let config = Qwen3Config::read(&folder(case(QWEN3))).unwrap();
    let encoder = Qwen3Encoder::load(&weights(QWEN3, KEEP), &config, &[2, 3, 5]).unwrap();
    let ids: Vec<u32> = (1..13).collect();
    let forward = |ids: &[u32], mask: [u32; 12], shown: std::ops::Range<usize>| {
        let all = encoder.forward(&[ids], Some(&[&mask])).unwrap();
        all.narrow(1, shown.start, shown.len()).unwrap()
    };
    let other = [&ids[..4], &[7; 8]].concat();
    assert!(worst(&forward(&ids, [1; 12], 0..4), &forward(&other, [1; 12], 0..4)) <= TOLERANCE, "causal");
    let mut hole = [1; 12];
    hole[2] = 0;
    let other = [&ids[..2], &[9], &ids[3..]].concat();
    assert!(worst(&forward(&ids, hole, 3..12), &forward(&other, hole, 3..12)) <= TOLERANCE, "padding");
}

#[test]
fn buckets_equal_transformers_for_the_sizes_of_published_models() {
    let recorded = read_json(&fixtures("tokenizer/buckets.json"));
    let first = recorded["first"].as_i64().unwrap();
    let mut config = T5Config::read(&folder(case("umt5_wan"))).unwrap();
    for size in recorded["sizes"].as_array().unwrap() {
        config.relative_attention_num_buckets = size["num_buckets"].as_u64().unwrap() as usize;
        config.relative_attention_max_distance = size["max_distance"].as_u64().unwrap() as usize;
        let positions = RelativePositions::new(&config);
        let theirs = size["buckets"].as_array().unwrap().iter().map(|bucket| bucket.as_u64().unwrap() as u32);
        assert!(
            (first..).map(|offset| positions.bucket(offset)).zip(theirs).all(|(a, b)| a == b),
            "{config:?}"
        );
    }
}

#[test]
fn misuse_is_named() {
    let encoder = t5("umt5_wan", KEEP);
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

    let all = weights(CLIP, KEEP);
    let max = clip(&all).config().max_position_embeddings;
    let message = clip(&all).forward(&[vec![5; max + 1]]).unwrap_err().to_string();
    assert_eq!(message, format!("got {} tokens, the text encoder reads at most {max}", max + 1));

    let (all, config) = (weights(VISION, KEEP), vision_config());
    let message = vision(&all).forward(&pixels().narrow(2, 1, 3).unwrap()).unwrap_err().to_string();
    assert!(message.contains("takes [batch, 3, "), "{message}");
    let error = ClipVisionEncoder::load(&all, &ClipVisionConfig { num_hidden_layers: 5, ..config.clone() });
    assert!(matches!(error, Err(CheckpointError::MissingTensor { name, .. }) if name.contains("layers.3.")));
    let error = ClipVisionEncoder::load(&all, &ClipVisionConfig { patch_size: 3, ..config });
    assert!(
        matches!(error, Err(CheckpointError::WrongShape { name, .. }) if name.contains("patch_embedding"))
    );
}

#[test]
fn lengths_of_fluxs_prompts_are_checked() {
    let copy = tempfile::tempdir().unwrap();
    copy_folder(&tiny("tiny-flux"), copy.path());
    let load = || FluxTextEncoder::load(&folder(copy.path()), &DEVICE, KEEP);
    let encoder = load().unwrap();
    assert_eq!(encoder.max_sequence_length(), 20, "what tokenizer_2 says");
    let long = encoder.tokenize(&"a red circle ".repeat(9), None).unwrap();
    assert_eq!((long.clip.truncated, long.t5.truncated), (27 - 19, 27 - 19));
    assert!(matches!(encoder.encode(&[]), Err(TextError::Empty { rows: 0 })));
    for (length, message) in [
        (1, "rows of 1 tokens were asked for, expected 2 to 512"),
        (513, "rows of 513 tokens were asked for, expected 2 to 512"),
    ] {
        assert_eq!(encoder.clone().with_max_sequence_length(length).unwrap_err().to_string(), message);
    }
    edit_json(&copy.path().join("tokenizer/tokenizer_config.json"), |c| c["model_max_length"] = 21.into());
    let message = load().unwrap_err().to_string();
    let part = "model_max_length is 21, max_position_embeddings of the text encoder is 20";
    assert!(message.contains(part), "{message}");
}

#[test]
fn first_and_last_frame_become_two_rows() {
    let picture = |width: usize, height: usize| {
        let rgb = (0..3 * width * height).map(|i| (i * 37 % 256) as u8);
        Picture::from_rgb8(width, height, rgb.collect()).unwrap()
    };
    let (first, last) = (picture(37, 23), picture(23, 37));
    let root = tempfile::tempdir().unwrap();
    copy_folder(&case(VISION), &root.path().join("image_encoder"));
    let processor = root.path().join("image_processor");
    fs::create_dir(&processor).unwrap();
    let load = |size: usize, crop: usize| {
        let json = format!(r#"{{"size": {size}, "crop_size": {crop}}}"#);
        fs::write(processor.join("preprocessor_config.json"), json).unwrap();
        WanImageEncoder::load(&folder(root.path()), &DEVICE, KEEP)
    };
    let size = vision_config().image_size;
    let encoder = load(size, size).unwrap();
    let both = encoder.encode(&[&first, &last]).unwrap();
    assert_eq!(both.dims(), [2, encoder.encoder().config().tokens(), 32]);
    assert_ne!(bits(&both.get(0).unwrap()), bits(&both.get(1).unwrap()));
    for (row, picture) in [first, last].iter().enumerate() {
        let one = encoder.encode(&[picture]).unwrap();
        assert!(worst(&one, &both.narrow(0, row, 1).unwrap()) < 1e-5);
    }
    let message = load(16, 14).unwrap_err().to_string();
    assert!(message.contains("crop_size is 14 x 14, image_size of the image encoder is 12"), "{message}");
    fs::remove_dir_all(&processor).unwrap();
    let message = WanImageEncoder::load(&folder(root.path()), &DEVICE, KEEP).unwrap_err().to_string();
    assert!(message.contains("crop_size is 224 x 224"), "{message}");
}
