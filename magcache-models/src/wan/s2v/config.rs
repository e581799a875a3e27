//! What `config.json` of a speech-to-video model says besides the sizes of a Wan transformer.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    checkpoint::{CheckpointError, Weights},
    wan::WanConfig,
};

/// Switches of the official code. Only these values were ever published, and only these are implemented.
const SWITCHES: [(&str, Switch); 8] = [
    ("zero_timestep", Switch::Is(true)),
    ("enable_framepack", Switch::Is(true)),
    ("framepack_drop_mode", Switch::Named("padd")),
    ("add_last_motion", Switch::Is(true)),
    ("enable_motioner", Switch::Is(false)),
    ("enable_tsm", Switch::Is(false)),
    ("trainable_token_pos_emb", Switch::Is(false)),
    ("adain_mode", Switch::Named("attn_norm")),
];

/// Keys that the network does not read: they concern training, or parts that the switches leave out.
const UNUSED: [&str; 2] = ["motion_token_num", "zero_init"];

enum Switch {
    Is(bool),
    Named(&'static str),
}

impl Switch {
    fn value(&self) -> Value {
        match self {
            Self::Is(on) => json!(on),
            Self::Named(name) => json!(name),
        }
    }
}

/// Sizes of the parts that read sound, pose and motion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S2vConfig {
    /// Text tokens of a pass; shorter texts are padded with zeros.
    pub text_len: usize,
    /// Channels of the latents of a pose.
    pub cond_dim: usize,
    /// Channels of the speech encoder's hidden states.
    pub audio_dim: usize,
    /// Hidden states that are mixed, one more than the speech encoder has layers.
    pub audio_layers: usize,
    /// Audio tokens of a latent frame, besides the one that is the same in every frame.
    pub num_audio_token: usize,
    /// Blocks behind which the video attends to the sound, in ascending order.
    pub audio_inject_layers: Vec<usize>,
    /// Whether the sound modulates the norm in front of that.
    pub enable_adain: bool,
}

#[derive(Deserialize)]
struct File {
    #[serde(default = "text_len")]
    text_len: usize,
    cond_dim: usize,
    audio_dim: usize,
    num_audio_token: usize,
    audio_inject_layers: Vec<usize>,
    enable_adain: bool,
}

/// As in every published Wan model.
fn text_len() -> usize {
    512
}

/// Whether a speech-to-video model may have this key.
pub(in crate::wan) fn knows_key(key: &str) -> bool {
    const SIZES: [&str; 6] =
        ["text_len", "cond_dim", "audio_dim", "num_audio_token", "audio_inject_layers", "enable_adain"];
    SIZES.contains(&key) || UNUSED.contains(&key) || SWITCHES.iter().any(|(switch, _)| *switch == key)
}

impl S2vConfig {
    /// Reads the values of a `config.json`; messages call it `place`. What the file does not say comes from
    /// the tensors.
    ///
    /// # Errors
    /// A missing key, a switch with another value than the published one, sizes that do not fit each other.
    pub(in crate::wan) fn from_value(
        value: &Value,
        config: &WanConfig,
        weights: &Weights,
        place: &str,
    ) -> Result<Self, CheckpointError> {
        let refused = |reason: String| Err(CheckpointError::BadConfig { file: place.to_owned(), reason });
        for (key, switch) in &SWITCHES {
            let (expected, found) = (switch.value(), value.get(key).unwrap_or(&Value::Null));
            if *found != expected {
                return refused(format!("{key} is {found}, supported is {expected}: no other was published"));
            }
        }
        let File { text_len, cond_dim, audio_dim, num_audio_token, audio_inject_layers, enable_adain } =
            File::deserialize(value)
                .map_err(|source| CheckpointError::Json { file: place.to_owned(), source })?;
        let [_, audio_layers, _, _] = weights.axes("casual_audio_encoder.weights")?;
        let (inner, blocks, layers) = (config.inner_dim(), config.num_layers, &audio_inject_layers);
        let sizes = [("text_len", text_len), ("audio_dim", audio_dim), ("num_audio_token", num_audio_token)];
        if let Some((key, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return refused(format!("{key} is 0, expected at least 1"));
        }
        if cond_dim != config.out_channels {
            return refused(format!(
                "cond_dim is {cond_dim}, the latents have {} channels",
                config.out_channels
            ));
        }
        if !inner.is_multiple_of(4) {
            return refused(format!("dim is {inner}, expected a multiple of 4"));
        }
        if layers.iter().any(|layer| *layer >= blocks) || !layers.is_sorted_by(|a, b| a < b) {
            return refused(format!(
                "audio_inject_layers is {layers:?}, expected blocks below {blocks} in ascending order"
            ));
        }
        let injectors = weights.count("audio_injector.injector");
        if injectors != layers.len() {
            return refused(format!(
                "audio_inject_layers names {} blocks, the tensors have {injectors} injectors",
                layers.len()
            ));
        }
        Ok(Self {
            text_len,
            cond_dim,
            audio_dim,
            audio_layers,
            num_audio_token,
            audio_inject_layers,
            enable_adain,
        })
    }
}
