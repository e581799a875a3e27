//! What strategies need to know about the Wan models.

use std::borrow::Cow;

use magcache_core::{ModelMeta, Role, Signal, StackMeta, inventory};

/// Wan's blocks take and return the denoised stream; text enters by cross-attention.
const fn wan(
    name: &'static str,
    summary: &'static str,
    stack: &'static [StackMeta],
    hidden_size: usize,
    profiles: &'static [&'static str],
) -> ModelMeta {
    ModelMeta {
        name: Cow::Borrowed(name),
        summary: Cow::Borrowed(summary),
        stacks: Cow::Borrowed(stack),
        experts: Cow::Borrowed(&["transformer"]),
        guided: true,
        text_after: false,
        signals: Cow::Borrowed(&[
            Signal::ModulatedInput,
            Signal::TimestepEmbedding,
            Signal::TimestepProjection,
        ]),
        hidden_size,
        profiles: Cow::Borrowed(profiles),
        origin: env!("CARGO_PKG_NAME"),
    }
}

const fn blocks(blocks: usize) -> StackMeta {
    StackMeta { name: Cow::Borrowed("blocks"), blocks, outputs: Cow::Borrowed(&[Role::Image]) }
}

static BLOCKS_30: [StackMeta; 1] = [blocks(30)];
static BLOCKS_40: [StackMeta; 1] = [blocks(40)];
static BLOCKS_6: [StackMeta; 1] = [blocks(6)];

/// Wan2.1 text to video, 1.3B.
pub const T2V_1_3B: ModelMeta = wan(
    "wan2.1-t2v",
    "Wan2.1 text to video, 1.3B: 30 blocks of width 1536",
    &BLOCKS_30,
    1536,
    &["wan2.1-t2v-1.3b"],
);

/// Wan2.1 text to video, 14B.
pub const T2V_14B: ModelMeta = wan(
    "wan2.1-t2v-14b",
    "Wan2.1 text to video, 14B: 40 blocks of width 5120",
    &BLOCKS_40,
    5120,
    &["wan2.1-t2v-14b"],
);

/// The small trained text-to-video model inside the binary.
pub const T2V_TINY: ModelMeta = wan(
    "wan2.1-t2v-tiny",
    "the embedded text-to-video model: 6 blocks of width 128",
    &BLOCKS_6,
    128,
    &["wan2.1-t2v-tiny"],
);

inventory::submit! { T2V_1_3B }
inventory::submit! { T2V_14B }
inventory::submit! { T2V_TINY }
