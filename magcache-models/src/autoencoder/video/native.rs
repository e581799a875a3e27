//! Native files of the video autoencoders: their sizes from the shapes of their tensors.

use serde_json::{Value, json};

use super::{VaeNames, VideoVaeConfig};
use crate::checkpoint::{CheckpointError, Weights};

/// Mean and deviation of the latent channels of Wan 2.2 5B, which are in the program but not in the file.
const WAN_22: ([f32; 48], [f32; 48]) = (
    [
        -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891,
        0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158,
        0.2502, -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649,
        0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548,
        -0.1681, -0.0667,
    ],
    [
        0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
        0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
        0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
        0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
    ],
);

/// Colour channels of a picture.
const COLOURS: usize = 3;

/// The sizes of the native autoencoder with these tensors, and how they are named.
///
/// # Errors
/// A tensor that is missing, or sizes that do not fit together.
pub fn described(weights: &Weights) -> Result<(VideoVaeConfig, VaeNames), CheckpointError> {
    let config = VideoVaeConfig::from_json(&config(weights)?.to_string());
    let config = config
        .map_err(|error| CheckpointError::BadConfig { file: weights.place(), reason: error.to_string() });
    Ok((config?, vae_names(weights)))
}

/// Whether it is Wan 2.2, which has nested modules at every resolution.
fn is_22(weights: &Weights) -> bool {
    weights.contains("encoder.downsamples.0.downsamples.0.residual.2.weight")
}

fn vae_names(weights: &Weights) -> VaeNames {
    if is_22(weights) {
        return VaeNames::Wan22;
    }
    let is_block = |i: &usize| weights.contains(&format!("decoder.upsamples.{i}.residual.2.weight"));
    VaeNames::Wan21 { decoder_blocks: (0..weights.count("decoder.upsamples.")).take_while(is_block).count() }
}

/// A resolution of the encoder.
#[derive(Default)]
struct Level {
    channels: usize,
    blocks: usize,
    /// Whether a step to the next resolution follows, and whether it halves the frame rate.
    step: Option<bool>,
}

fn config(weights: &Weights) -> Result<Value, CheckpointError> {
    let levels = if is_22(weights) {
        (0..weights.count("encoder.downsamples."))
            .map(|level| levels(weights, &format!("encoder.downsamples.{level}.downsamples.")))
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .flatten()
            .collect()
    } else {
        levels(weights, "encoder.downsamples.")?
    };
    let [base_dim, in_channels, ..] = weights.axes::<5>("encoder.conv1.weight")?;
    let [z_dim, ..] = weights.axes::<5>("conv2.weight")?;
    let [out_channels, decoder_base_dim, ..] = weights.axes::<5>("decoder.head.2.weight")?;
    let patch_size = (in_channels / COLOURS).isqrt();
    let steps: Vec<bool> = levels.iter().filter_map(|level| level.step).collect();
    let (mean, std) = statistics(z_dim);
    let mut config = json!({
        "base_dim": base_dim, "z_dim": z_dim, "num_res_blocks": levels.first().map_or(0, |level| level.blocks),
        "dim_mult": levels.iter().map(|level| level.channels / base_dim.max(1)).collect::<Vec<_>>(),
        "temperal_downsample": steps, "latents_mean": mean, "latents_std": std, "in_channels": in_channels,
        "out_channels": out_channels, "is_residual": is_22(weights),
    });
    if decoder_base_dim != base_dim {
        config["decoder_base_dim"] = json!(decoder_base_dim);
    }
    if patch_size > 1 {
        config["patch_size"] = json!(patch_size);
        config["scale_factor_spatial"] = json!(patch_size << steps.len());
    }
    Ok(config)
}

/// The modules of a list in groups, each ending with a step.
fn levels(weights: &Weights, row: &str) -> Result<Vec<Level>, CheckpointError> {
    let mut levels = vec![Level::default()];
    for i in 0..weights.count(row) {
        let Some(level) = levels.last_mut() else { break };
        if weights.contains(&format!("{row}{i}.resample.1.weight")) {
            level.step = Some(weights.contains(&format!("{row}{i}.time_conv.weight")));
            levels.push(Level::default());
        } else {
            [level.channels, ..] = weights.axes::<5>(&format!("{row}{i}.residual.2.weight"))?;
            level.blocks += 1;
        }
    }
    levels.retain(|level| level.blocks > 0);
    Ok(levels)
}

/// The published statistics of latents with this many channels; for other numbers, those that change nothing,
/// which are the defaults of the native classes.
fn statistics(z_dim: usize) -> (Vec<f32>, Vec<f32>) {
    let wan_21 = VideoVaeConfig::default();
    match z_dim {
        16 => (wan_21.latents_mean, wan_21.latents_std),
        48 => (WAN_22.0.to_vec(), WAN_22.1.to_vec()),
        _ => (vec![0.0; z_dim], vec![1.0; z_dim]),
    }
}
