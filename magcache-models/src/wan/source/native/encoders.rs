//! The native text encoder and the CLIP vision tower.

use candle_core::Device;
use serde_json::{Value, json};

use super::{Component, ImageEncoder, Speech, find};
use crate::{
    checkpoint::{CheckpointError, Folder, WeightDtype, Weights},
    recognise::Role,
    text::{T5Config, T5File, open_t5},
    wan::{s2v::S2vConfig, source::component::Names},
    wav2vec2::{Wav2Vec2Config, Wav2Vec2Processor},
};

/// Attention heads of the only published vision tower; they cannot be inferred from a tensor.
const VISION_HEADS: usize = 16;

/// Folder of the encoder of speech.
const SPEECH: &str = "wav2vec2-large-xlsr-53-english";

/// UMT5's encoder, with sizes from the shapes of its tensors, or else the one in diffusers' folder.
pub(super) fn text(folder: &Folder) -> Result<Component<T5Config>, CheckpointError> {
    let other = folder.sub("text_encoder");
    let file = match find(folder, |name| name.starts_with("models_t5"), "models_t5_umt5-xxl-enc-bf16.pth") {
        Err(_) if other.exists("config.json") => return Component::in_folder(other, T5Config::read),
        file => file?,
    };
    Component::in_file(folder, file, None, |weights| {
        let [vocab_size, d_model] = weights.axes("token_embedding.weight")?;
        let [inner, _] = weights.axes::<2>("blocks.0.attn.q.weight")?;
        let [buckets, heads] = weights.axes("blocks.0.pos_embedding.embedding.weight")?;
        let [d_ff, _] = weights.axes::<2>("blocks.0.ffn.fc1.weight")?;
        let json = json!({
            "model_type": "umt5", "vocab_size": vocab_size, "d_model": d_model, "d_kv": inner / heads.max(1), "d_ff": d_ff,
            "num_layers": weights.count("blocks."), "num_heads": heads, "relative_attention_num_buckets": buckets,
            "feed_forward_proj": "gated-gelu"
        });
        Ok((T5Config::from_value(json, &weights.place())?, Names::TextEncoder))
    })
}

/// The encoder in a single file of any layout, and whether the file has its tokenizer.
pub(in crate::wan) fn text_file(
    folder: &Folder,
    file: String,
) -> Result<Component<T5Config>, CheckpointError> {
    let T5File { config, part, .. } = open_t5(folder, &file, &Device::Cpu, WeightDtype::Keep)?;
    let names = match part.layout.name.as_str() {
        "umt5_native" => Names::TextEncoder,
        "umt5_gguf" | "t5_gguf" => Names::TextEncoderGguf,
        _ => Names::Ours,
    };
    let place = folder.describe_file(&file);
    Ok(Component { config, place, folder: folder.clone(), files: vec![file], part: Some(part), names })
}

/// The vision tower in a single file under transformers' names, with sizes from the shapes of its tensors.
pub(in crate::wan) fn image_file(folder: &Folder, file: String) -> Result<ImageEncoder, CheckpointError> {
    let part = Component::in_file(folder, file, Some(Role::ImageEncoder), |weights| {
        let [hidden_size, channels, patch_size, _] =
            weights.axes("vision_model.embeddings.patch_embedding.weight")?;
        let [tokens, _] = weights.axes::<2>("vision_model.embeddings.position_embedding.weight")?;
        let [intermediate_size, _] = weights.axes::<2>("vision_model.encoder.layers.0.mlp.fc1.weight")?;
        let layers = weights.count("vision_model.encoder.layers.");
        let config = vision(hidden_size, intermediate_size, layers, [channels, patch_size, tokens]);
        Ok((config, Names::Ours))
    })?;
    Ok(ImageEncoder { part, processor: None })
}

/// The encoder of speech, in a folder as transformers writes it.
pub(super) fn speech(folder: &Folder, config: S2vConfig) -> Result<Speech, CheckpointError> {
    let own = folder.sub(SPEECH);
    if !own.exists("config.json") {
        return Err(CheckpointError::MissingFile {
            file: own.describe_file("config.json"),
            expected: "the encoder of speech".into(),
        });
    }
    let processor = Wav2Vec2Processor::read(&own)?;
    let encoder = Component::in_folder(own, Wav2Vec2Config::read)?;
    let (layers, channels) = (encoder.config.num_hidden_layers + 1, encoder.config.hidden_size);
    if channels != config.audio_dim {
        let reason =
            format!("hidden_size is {channels}, audio_dim of the transformer is {}", config.audio_dim);
        return Err(encoder.refused(reason));
    }
    if layers != config.audio_layers {
        let reason = format!(
            "num_hidden_layers is {}, the transformer mixes {} hidden states",
            layers - 1,
            config.audio_layers
        );
        return Err(encoder.refused(reason));
    }
    Ok(Speech { config, encoder, processor })
}

/// The vision tower, with sizes from the shapes of its tensors.
pub(super) fn image(folder: &Folder) -> Result<ImageEncoder, CheckpointError> {
    let expected = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth";
    let file = find(folder, |name| name.starts_with("models_clip"), expected)?;
    let part =
        Component::in_file(folder, file, None, |weights| Ok((vision_config(weights)?, Names::ClipVision)))?;
    Ok(ImageEncoder { part, processor: None })
}

fn vision_config(weights: &Weights) -> Result<Value, CheckpointError> {
    let [hidden_size, channels, patch_size, _] = weights.axes("visual.patch_embedding.weight")?;
    let [_, tokens, _] = weights.axes::<3>("visual.pos_embedding")?;
    let [intermediate_size, _] = weights.axes::<2>("visual.transformer.0.mlp.0.weight")?;
    let layers = weights.count("visual.transformer.");
    Ok(vision(hidden_size, intermediate_size, layers, [channels, patch_size, tokens]))
}

fn vision(
    hidden_size: usize,
    intermediate_size: usize,
    layers: usize,
    [channels, patch_size, tokens]: [usize; 3],
) -> Value {
    json!({
        "model_type": "clip_vision_model", "hidden_size": hidden_size, "intermediate_size": intermediate_size,
        "num_hidden_layers": layers, "num_attention_heads": VISION_HEADS,
        "num_channels": channels, "image_size": tokens.saturating_sub(1).isqrt() * patch_size, "patch_size": patch_size,
        "hidden_act": "gelu", "layer_norm_eps": 1e-5
    })
}
