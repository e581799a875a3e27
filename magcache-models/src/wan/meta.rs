//! Metadata of the Wan models, for strategies.

use std::borrow::Cow;

use magcache_core::{ModelMeta, Signal, StackMeta, inventory};

use super::{WanSource, WanTask, block::MODULES};

/// Names of the two networks, in the order of their phases, of the models that have two.
const TWO: &[&str] = &["high-noise", "low-noise"];
const ONE: &[&str] = &["transformer"];

/// Wan's blocks take and return the stream that is denoised; text enters by cross-attention.
const fn wan(
    name: &'static str,
    summary: &'static str,
    stack: &'static [StackMeta],
    hidden_size: usize,
    experts: &'static [&'static str],
    profiles: &'static [&'static str],
) -> ModelMeta {
    ModelMeta {
        name: Cow::Borrowed(name),
        summary: Cow::Borrowed(summary),
        stacks: Cow::Borrowed(stack),
        always_run: 0,
        modules: Cow::Borrowed(MODULES),
        experts: Cow::Borrowed(experts),
        guided: true,
        text_after: false,
        signals: Cow::Borrowed(&[
            Signal::ModulatedInput,
            Signal::TimestepEmbedding,
            Signal::TimestepProjection,
            Signal::Latents,
        ]),
        hidden_size,
        profiles: Cow::Borrowed(profiles),
        origin: env!("CARGO_PKG_NAME"),
    }
}

static BLOCKS_30: [StackMeta; 1] = [StackMeta::image("blocks", 30)];
static BLOCKS_40: [StackMeta; 1] = [StackMeta::image("blocks", 40)];
static BLOCKS_5: [StackMeta; 1] = [StackMeta::image("blocks", 5)];
static BLOCKS_6: [StackMeta; 1] = [StackMeta::image("blocks", 6)];

/// Wan2.1 text to video, 1.3B.
pub const T2V_1_3B: ModelMeta = wan(
    "wan2.1-t2v",
    "Wan2.1 text to video, 1.3B: 30 blocks of width 1536",
    &BLOCKS_30,
    1536,
    ONE,
    &["wan2.1-t2v-1.3b"],
);

/// Wan2.1 text to video, 14B.
pub const T2V_14B: ModelMeta = wan(
    "wan2.1-t2v-14b",
    "Wan2.1 text to video, 14B: 40 blocks of width 5120",
    &BLOCKS_40,
    5120,
    ONE,
    &["wan2.1-t2v-14b"],
);

/// Wan2.1 image to video, 14B: the checkpoints for 480p and 720p have the same architecture.
pub const I2V_14B: ModelMeta = wan(
    "wan2.1-i2v-14b",
    "Wan2.1 image to video, 14B: 40 blocks of width 5120, image by latents and CLIP",
    &BLOCKS_40,
    5120,
    ONE,
    &["wan2.1-i2v-480p", "wan2.1-i2v-720p"],
);

/// Wan2.1 first and last frame to video, 14B. No calibration was published.
pub const FLF2V_14B: ModelMeta = wan(
    "wan2.1-flf2v-14b",
    "Wan2.1 first and last frame to video, 14B: 40 blocks of width 5120",
    &BLOCKS_40,
    5120,
    ONE,
    &[],
);

/// Wan2.2 text to video: two experts of 14B.
pub const T2V_A14B: ModelMeta = wan(
    "wan2.2-t2v-a14b",
    "Wan2.2 text to video, two experts of 14B: 40 blocks of width 5120 each",
    &BLOCKS_40,
    5120,
    TWO,
    &["wan2.2-t2v-a14b"],
);

/// Wan2.2 image to video: two experts of 14B.
pub const I2V_A14B: ModelMeta = wan(
    "wan2.2-i2v-a14b",
    "Wan2.2 image to video, two experts of 14B: 40 blocks of width 5120 each, image by latents",
    &BLOCKS_40,
    5120,
    TWO,
    &["wan2.2-i2v-a14b"],
);

/// Wan2.2 text or image to video, 5B.
pub const TI2V_5B: ModelMeta = wan(
    "wan2.2-ti2v-5b",
    "Wan2.2 text or image to video, 5B: 30 blocks of width 3072",
    &BLOCKS_30,
    3072,
    ONE,
    &["wan2.2-ti2v-5b"],
);

/// Wan2.2 speech to video, 14B. No calibration was published.
pub const S2V_14B: ModelMeta = wan(
    "wan2.2-s2v-14b",
    "Wan2.2 speech to video, 14B: 40 blocks of width 5120, sound behind 12 of them",
    &BLOCKS_40,
    5120,
    ONE,
    &[],
);

/// The small trained text-to-video model inside the binary.
pub const T2V_TINY: ModelMeta = wan(
    "wan2.1-t2v-tiny",
    "the embedded text-to-video model: 6 blocks of width 128",
    &BLOCKS_6,
    128,
    ONE,
    &["wan2.1-t2v-tiny"],
);

/// The small trained pair inside the binary.
pub const T2V_PAIR_TINY: ModelMeta = wan(
    "wan2.2-t2v-tiny",
    "the embedded text-to-video pair: two experts, 6 blocks of width 128 each",
    &BLOCKS_6,
    128,
    TWO,
    &["wan2.2-t2v-tiny"],
);

/// The small trained image-to-video model inside the binary.
pub const I2V_TINY: ModelMeta = wan(
    "wan2.2-i2v-tiny",
    "the embedded image-to-video model: 6 blocks of width 128",
    &BLOCKS_6,
    128,
    ONE,
    &["wan2.2-i2v-tiny"],
);

/// The small trained speech-to-video model inside the binary.
pub const S2V_TINY: ModelMeta = wan(
    "wan2.2-s2v-tiny",
    "the embedded speech-to-video model: 5 blocks of width 96, sound behind 3 of them",
    &BLOCKS_5,
    96,
    ONE,
    &["wan2.2-s2v-tiny"],
);

inventory::submit! { T2V_1_3B }
inventory::submit! { T2V_14B }
inventory::submit! { I2V_14B }
inventory::submit! { FLF2V_14B }
inventory::submit! { T2V_A14B }
inventory::submit! { I2V_A14B }
inventory::submit! { TI2V_5B }
inventory::submit! { S2V_14B }
inventory::submit! { T2V_TINY }
inventory::submit! { T2V_PAIR_TINY }
inventory::submit! { I2V_TINY }
inventory::submit! { S2V_TINY }

/// The registered model of a checkpoint: the one that its folder names, else the one with the same task,
/// experts, width and depth. For other sizes, its family's model with those sizes and no profile.
pub(super) fn of(source: &WanSource, named: Option<&str>) -> ModelMeta {
    let config = source.transformer_config(magcache_core::Expert(0));
    let (layers, width) = (config.num_layers, config.inner_dim());
    let family: &[ModelMeta] = match (source.task(), source.experts()) {
        (WanTask::T2V, 1) => &[T2V_1_3B, T2V_14B, T2V_TINY],
        (WanTask::T2V, _) => &[T2V_A14B, T2V_PAIR_TINY],
        (WanTask::I2V, 1) => &[I2V_14B, I2V_TINY],
        (WanTask::I2V, _) => &[I2V_A14B],
        (WanTask::FLF2V, _) => &[FLF2V_14B],
        (WanTask::TI2V, _) => &[TI2V_5B],
        (WanTask::S2V, _) => &[S2V_14B, S2V_TINY],
    };
    let same = |m: &&ModelMeta| match named {
        Some(name) => m.name == name,
        None => m.blocks() == layers && m.hidden_size == width,
    };
    let unknown = || ModelMeta { profiles: (&[]).into(), ..family[0].clone() };
    let found = family.iter().find(same).cloned().unwrap_or_else(unknown);
    ModelMeta { hidden_size: width, ..found.with_blocks(&[layers]) }
}
