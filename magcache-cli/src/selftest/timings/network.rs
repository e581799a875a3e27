//! A Wan network of a published model's width, with one block and random weights in memory.

use std::collections::BTreeMap;

use anyhow::Result;
use candle_core::{DType, Device};
use magcache_models::{
    checkpoint::{WeightDtype, Weights},
    wan::{WanConfig, WanTransformer},
};
use serde_json::{Map, Value, json};

/// Tensors by name, with their shapes.
type Shapes = BTreeMap<String, Vec<usize>>;

/// Loads it in a type.
pub(super) fn one_block(config: &WanConfig, dtype: DType, device: &Device) -> Result<WanTransformer> {
    let weights =
        Weights::from_bytes("random weights", file(&shapes(config)), device, WeightDtype::Cast(dtype))?;
    Ok(WanTransformer::load(&weights, config.clone())?)
}

/// Bytes that it needs while it is loaded: the file, the tensors, and their copy in the order that products
/// read them in.
pub(super) fn bytes(config: &WanConfig, dtype: DType) -> u64 {
    let values: usize = shapes(config).values().map(|shape| shape.iter().product::<usize>()).sum();
    (values * (2 + 2 * dtype.size_in_bytes())) as u64
}

fn shapes(config: &WanConfig) -> Shapes {
    let (d, ffn) = (config.inner_dim(), config.ffn_dim);
    let mut all = Shapes::new();
    let mut linear = |name: &str, outputs: usize, inputs: &[usize]| {
        all.insert(format!("{name}.weight"), [&[outputs], inputs].concat());
        all.insert(format!("{name}.bias"), vec![outputs]);
    };
    let [t, h, w] = config.patch_size;
    linear("patch_embedding", d, &[config.in_channels, t, h, w]);
    linear("proj_out", config.out_channels * config.patch_volume(), &[d]);
    let embedder = |part: &str| format!("condition_embedder.{part}");
    linear(&embedder("time_embedder.linear_1"), d, &[config.freq_dim]);
    linear(&embedder("time_embedder.linear_2"), d, &[d]);
    linear(&embedder("time_proj"), 6 * d, &[d]);
    linear(&embedder("text_embedder.linear_1"), d, &[config.text_dim]);
    linear(&embedder("text_embedder.linear_2"), d, &[d]);
    for attention in ["blocks.0.attn1", "blocks.0.attn2"] {
        for projection in ["to_q", "to_k", "to_v", "to_out.0"] {
            linear(&format!("{attention}.{projection}"), d, &[d]);
        }
    }
    linear("blocks.0.norm2", d, &[]);
    linear("blocks.0.ffn.net.0.proj", ffn, &[d]);
    linear("blocks.0.ffn.net.2", d, &[ffn]);
    for attention in ["attn1", "attn2"] {
        for norm in ["norm_q", "norm_k"] {
            all.insert(format!("blocks.0.{attention}.{norm}.weight"), vec![d]);
        }
    }
    all.insert("blocks.0.scale_shift_table".to_owned(), vec![1, 6, d]);
    all.insert("scale_shift_table".to_owned(), vec![1, 2, d]);
    all
}

/// A safetensors file in bf16. What the values are does not matter to the time that they take, as long as
/// they are spread like weights: a few thousand different ones, repeated.
fn file(shapes: &Shapes) -> Vec<u8> {
    let mut state = 1u32;
    let few: Vec<u8> = (0..4099)
        .flat_map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let uniform = f64::from(state) / f64::from(u32::MAX) - 0.5;
            // The upper half of an f32 is a bf16.
            let bits = ((0.05 * uniform) as f32).to_bits() >> 16;
            (bits as u16).to_le_bytes()
        })
        .collect();
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in shapes {
        let begin = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({ "dtype": "BF16", "shape": shape, "data_offsets": [begin, end] }));
    }
    let header = Value::Object(header).to_string();
    let mut file = Vec::with_capacity(8 + header.len() + end);
    file.extend((header.len() as u64).to_le_bytes());
    file.extend(header.as_bytes());
    while file.len() < 8 + header.len() + end {
        let rest = 8 + header.len() + end - file.len();
        file.extend(&few[..rest.min(few.len())]);
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_what_a_network_reads_and_nothing_else() {
        let config = WanConfig {
            num_attention_heads: 2,
            ffn_dim: 512,
            text_dim: 64,
            num_layers: 1,
            ..WanConfig::default()
        };
        let weights =
            Weights::from_bytes("w", file(&shapes(&config)), &Device::Cpu, WeightDtype::Keep).unwrap();
        WanTransformer::load(&weights, config).unwrap();
        assert_eq!(weights.unused(), [""; 0]);
    }
}
