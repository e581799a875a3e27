//! The vision tower: patches of pictures to tokens of the language model.
//!
//! In most blocks the patches of a window attend to each other, in some all of a picture. Patches are kept in
//! the order of windows, so that both are consecutive; the tokens are put back in the order of the picture.
//!
//! Source: `Qwen2_5_VisionTransformerPretrainedModel` of transformers 5.23.0.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::VisionConfig;
use crate::{
    checkpoint::{CheckpointError, Weights},
    nn::{Linear, RmsNorm, attention, silu},
    text::causal::{HalfRotary, frequencies},
};

/// Epsilon of every norm, and base of the rotary angles; not part of the configuration.
const EPS: f64 = 1e-6;
const THETA: f64 = 10_000.0;

#[derive(Clone, Debug)]
pub(super) struct VisionTower {
    config: VisionConfig,
    patch_embed: Linear,
    blocks: Vec<VisionBlock>,
    ln_q: RmsNorm,
    mlp: [Linear; 2],
}

#[derive(Clone, Debug)]
struct VisionBlock {
    norm1: RmsNorm,
    qkv: Linear,
    proj: Linear,
    norm2: RmsNorm,
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

/// Patches that attend to each other, which are consecutive.
type Groups = Vec<Range<usize>>;

impl VisionTower {
    pub(super) fn load(
        weights: &Weights,
        config: &VisionConfig,
    ) -> std::result::Result<Self, CheckpointError> {
        let (width, merged) = (config.hidden_size, config.hidden_size * config.spatial_merge_size.pow(2));
        let side = config.patch_size;
        let kernel = [width, config.in_channels, config.temporal_patch_size, side, side];
        let kernel = weights.get("patch_embed.proj.weight", &kernel)?;
        let merger = weights.pp("merger");
        let block = |i: usize| VisionBlock::load(&weights.pp("blocks").pp(i), config);
        Ok(Self {
            patch_embed: Linear::new(weights.ops(), kernel.reshape((width, config.patch_channels()))?, None)?,
            blocks: (0..config.depth).map(block).collect::<std::result::Result<_, _>>()?,
            ln_q: RmsNorm::load(&merger.pp("ln_q"), width, EPS)?,
            mlp: [
                Linear::load(&merger.pp("mlp.0"), merged, merged, true)?,
                Linear::load(&merger.pp("mlp.2"), merged, config.out_hidden_size, true)?,
            ],
            config: config.clone(),
        })
    }

    /// Patches `[patches, channels]` of pictures of so many rows and columns, one picture after the other, to
    /// tokens `[patches / spatial_merge_size^2, out_hidden_size]` in the order of each picture.
    pub(super) fn forward(&self, patches: &Tensor, grids: &[[usize; 2]]) -> Result<Tensor> {
        let merge = self.config.spatial_merge_size;
        let expected: usize = grids.iter().map(|grid| grid.iter().product::<usize>()).sum();
        let (count, _) = patches.dims2()?;
        let whole = grids.iter().flatten().all(|side| side.is_multiple_of(merge) && *side > 0);
        if count != expected || !whole {
            candle_core::bail!("{count} patches for pictures of {grids:?}, which are of multiples of {merge}")
        }
        let (order, windows, pictures) = self.windows(grids);
        let device = patches.device();
        let square = merge * merge;
        let of_token = |token: u32| (0..square as u32).map(move |i| token * square as u32 + i);
        let of_patches: Vec<u32> = order.iter().copied().flat_map(of_token).collect();
        let places = self.places(grids);
        let places: Vec<[usize; 2]> =
            of_patches.iter().filter_map(|patch| places.get(*patch as usize).copied()).collect();
        let head_dim = self.config.hidden_size / self.config.num_heads;
        // A half of the pairs turns by the row, the other by the column.
        let pairs: Vec<_> = (0..2)
            .flat_map(|axis| frequencies(head_dim / 2, THETA).map(move |frequency| (axis, frequency)))
            .collect();
        let rotary = HalfRotary::at(&places, &pairs, device)?;

        let patches = patches.index_select(&Tensor::new(of_patches, device)?, 0)?.unsqueeze(0)?;
        let mut x = self.patch_embed.forward(&patches)?;
        for (i, block) in self.blocks.iter().enumerate() {
            let full = self.config.fullatt_block_indexes.contains(&i);
            x = block.forward(&x, &rotary, if full { &pictures } else { &windows }, self.config.num_heads)?;
        }
        let merged = self.ln_q.forward(&x)?.reshape((1, count / square, ()))?;
        let [inner, outer] = &self.mlp;
        let tokens = outer.forward(&inner.forward_gelu_erf(&merged)?)?.squeeze(0)?;
        let mut back = vec![0u32; order.len()];
        for (place, token) in (0u32..).zip(&order) {
            if let Some(back) = back.get_mut(*token as usize) {
                *back = place;
            }
        }
        tokens.index_select(&Tensor::new(back, device)?, 0)
    }

    /// The tokens in the order of windows, and the patches of every window and of every picture in that
    /// order.
    fn windows(&self, grids: &[[usize; 2]]) -> (Vec<u32>, Groups, Groups) {
        let merge = self.config.spatial_merge_size;
        let side = (self.config.window_size / self.config.token_side()).max(1);
        let (mut order, mut windows, mut pictures) = (Vec::new(), Groups::new(), Groups::new());
        let mut before = 0;
        for [rows, columns] in grids.iter().map(|grid| grid.map(|side| side / merge)) {
            let start = order.len();
            for (top, left) in (0..rows)
                .step_by(side)
                .flat_map(|top| (0..columns).step_by(side).map(move |left| (top, left)))
            {
                let first = order.len();
                for row in top..rows.min(top + side) {
                    let line = left..columns.min(left + side);
                    order.extend(line.map(|column| (before + row * columns + column) as u32));
                }
                windows.push(first * merge * merge..order.len() * merge * merge);
            }
            pictures.push(start * merge * merge..order.len() * merge * merge);
            before += rows * columns;
        }
        (order, windows, pictures)
    }

    /// Row and column of every patch, in the order of squares in which patches come.
    fn places(&self, grids: &[[usize; 2]]) -> Vec<[usize; 2]> {
        let merge = self.config.spatial_merge_size;
        let inside = |[row, column]: [usize; 2]| {
            (0..merge).flat_map(move |dy| (0..merge).map(move |dx| [merge * row + dy, merge * column + dx]))
        };
        let tokens = grids.iter().map(|grid| grid.map(|side| side / merge)).flat_map(|[rows, columns]| {
            (0..rows).flat_map(move |row| (0..columns).map(move |column| [row, column]))
        });
        tokens.flat_map(inside).collect()
    }
}

impl VisionBlock {
    fn load(weights: &Weights, config: &VisionConfig) -> std::result::Result<Self, CheckpointError> {
        let (width, hidden) = (config.hidden_size, config.intermediate_size);
        let norm = |name: &str| RmsNorm::load(&weights.pp(name), width, EPS);
        let linear = |name: &str, inputs, outputs| Linear::load(&weights.pp(name), inputs, outputs, true);
        Ok(Self {
            norm1: norm("norm1")?,
            qkv: linear("attn.qkv", width, 3 * width)?,
            proj: linear("attn.proj", width, width)?,
            norm2: norm("norm2")?,
            gate_proj: linear("mlp.gate_proj", width, hidden)?,
            up_proj: linear("mlp.up_proj", width, hidden)?,
            down_proj: linear("mlp.down_proj", hidden, width)?,
        })
    }

    /// `[1, patches, hidden_size]` to the same shape.
    fn forward(&self, x: &Tensor, rotary: &HalfRotary, groups: &Groups, heads: usize) -> Result<Tensor> {
        let (_, patches, width) = x.dims3()?;
        let qkv = self.qkv.forward(&self.norm1.forward(x)?)?;
        let part = |i: usize| qkv.narrow(2, i * width, width)?.contiguous();
        let turned =
            |i: usize| rotary.apply(&part(i)?.reshape((1, patches, heads, width / heads))?)?.flatten_from(2);
        let (q, k, v) = (turned(0)?, turned(1)?, part(2)?);
        let attended = groups.iter().map(|group| {
            let of = |x: &Tensor| x.narrow(1, group.start, group.len());
            attention(self.proj.ops(), &of(&q)?, &of(&k)?, &of(&v)?, heads)
        });
        let attended = Tensor::cat(&attended.collect::<Result<Vec<_>>>()?, 1)?;
        let x = self.proj.forward_add(&attended, x)?;
        let normed = self.norm2.forward(&x)?;
        let gate = silu(self.gate_proj.ops(), &self.gate_proj.forward(&normed)?)?;
        self.down_proj.forward_add(&self.up_proj.forward_times(&normed, &gate)?, &x)
    }
}
