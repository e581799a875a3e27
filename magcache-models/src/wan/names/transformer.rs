//! The transformer: tensors have the same shapes in both layouts, so only names differ.
//!
//! Source: `wan/modules/model.py` of Wan2.1 and the conversion that the diffusers project published. Note the
//! swap: native `norm3`, the only norm of a block with weights, is diffusers' `norm2`.

use super::same;
use crate::checkpoint::{
    AdapterNames, AdapterPart,
    table::{Rule, rename},
};

const TABLE: [Rule; 32] = [
    rename("patch_embedding", "patch_embedding"),
    rename("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    rename("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    rename("time_projection.1", "condition_embedder.time_proj"),
    rename("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    rename("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    rename("img_emb.proj.0", "condition_embedder.image_embedder.norm1"),
    rename("img_emb.proj.1", "condition_embedder.image_embedder.ff.net.0.proj"),
    rename("img_emb.proj.3", "condition_embedder.image_embedder.ff.net.2"),
    rename("img_emb.proj.4", "condition_embedder.image_embedder.norm2"),
    rename("img_emb.emb_pos", "condition_embedder.image_embedder.pos_embed"),
    rename("head.head", "proj_out"),
    rename("head.modulation", "scale_shift_table"),
    rename("blocks.*.modulation", "blocks.*.scale_shift_table"),
    rename("blocks.*.norm3", "blocks.*.norm2"),
    rename("blocks.*.self_attn.q", "blocks.*.attn1.to_q"),
    rename("blocks.*.self_attn.k", "blocks.*.attn1.to_k"),
    rename("blocks.*.self_attn.v", "blocks.*.attn1.to_v"),
    rename("blocks.*.self_attn.o", "blocks.*.attn1.to_out.0"),
    rename("blocks.*.self_attn.norm_q", "blocks.*.attn1.norm_q"),
    rename("blocks.*.self_attn.norm_k", "blocks.*.attn1.norm_k"),
    rename("blocks.*.cross_attn.q", "blocks.*.attn2.to_q"),
    rename("blocks.*.cross_attn.k", "blocks.*.attn2.to_k"),
    rename("blocks.*.cross_attn.v", "blocks.*.attn2.to_v"),
    rename("blocks.*.cross_attn.o", "blocks.*.attn2.to_out.0"),
    rename("blocks.*.cross_attn.norm_q", "blocks.*.attn2.norm_q"),
    rename("blocks.*.cross_attn.norm_k", "blocks.*.attn2.norm_k"),
    rename("blocks.*.cross_attn.k_img", "blocks.*.attn2.add_k_proj"),
    rename("blocks.*.cross_attn.v_img", "blocks.*.attn2.add_v_proj"),
    rename("blocks.*.cross_attn.norm_k_img", "blocks.*.attn2.norm_added_k"),
    rename("blocks.*.ffn.0", "blocks.*.ffn.net.0.proj"),
    rename("blocks.*.ffn.2", "blocks.*.ffn.net.2"),
];

/// The names that adapters for Wan use besides those of diffusers.
pub const ADAPTER: AdapterNames = AdapterNames {
    family: "Wan",
    tables: &[&TABLE],
    part: AdapterPart::Network,
    encoders: &[AdapterPart::T5],
};

/// Prefixes that single files add to every name.
const PREFIXES: [&str; 4] = ["model.diffusion_model.", "diffusion_model.", "model.model.", "net."];

/// A tensor that every native checkpoint has and no diffusers checkpoint.
const MARKER: &str = "head.modulation";

/// Whether these are the tensor names of the native layout.
pub fn is_native<'a>(names: impl IntoIterator<Item = &'a str>) -> bool {
    names.into_iter().any(|name| bare(name) == MARKER)
}

/// The diffusers name of a native tensor; `None` for one that no Wan transformer has.
pub fn to_diffusers(native: &str) -> Option<String> {
    same(&TABLE, bare(native))
}

/// The native name of a diffusers tensor; `None` for one that no Wan transformer has.
pub fn to_native(diffusers: &str) -> Option<String> {
    same(&TABLE.map(|Rule { native, ours, .. }| rename(ours, native)), diffusers)
}

/// The name without the prefix of single files.
pub(super) fn bare(name: &str) -> &str {
    PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_has_one_name_in_each_layout() {
        for Rule { native, ours, .. } in TABLE {
            let [native, diffusers] = [native, ours].map(|module| module.replace('*', "12") + ".bias");
            assert_eq!(to_diffusers(&native).as_ref(), Some(&diffusers));
            assert_eq!(to_native(&diffusers), Some(native));
        }
    }

    #[test]
    fn names_that_differ_in_more_than_the_module_are_kept_apart() {
        assert_eq!(to_diffusers("blocks.0.norm3.weight").as_deref(), Some("blocks.0.norm2.weight"));
        assert_eq!(
            to_diffusers("blocks.0.cross_attn.k_img.weight").as_deref(),
            Some("blocks.0.attn2.add_k_proj.weight")
        );
        assert_eq!(
            to_diffusers("model.diffusion_model.head.modulation").as_deref(),
            Some("scale_shift_table")
        );
        for unknown in [
            "blocks.x.norm3.weight",
            "blocks.0.norm1.weight",
            "vace_blocks.0.norm3.weight",
            "head.head.scale",
        ] {
            assert_eq!(to_diffusers(unknown), None, "{unknown}");
        }
        assert!(is_native(["patch_embedding.weight", "diffusion_model.head.modulation"]));
        assert!(!is_native(["patch_embedding.weight", "scale_shift_table"]));
    }
}
