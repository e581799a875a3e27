//! The transformer: tensors have the same shapes in both layouts, so only names differ.
//!
//! Source: `wan/modules/model.py` of Wan2.1 and the conversion that the diffusers project published. Note the
//! swap: native `norm3`, the only norm of a block with weights, is diffusers' `norm2`.

/// Modules outside the blocks: native, diffusers.
const MODEL: [(&str, &str); 13] = [
    ("patch_embedding", "patch_embedding"),
    ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    ("time_projection.1", "condition_embedder.time_proj"),
    ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    ("img_emb.proj.0", "condition_embedder.image_embedder.norm1"),
    ("img_emb.proj.1", "condition_embedder.image_embedder.ff.net.0.proj"),
    ("img_emb.proj.3", "condition_embedder.image_embedder.ff.net.2"),
    ("img_emb.proj.4", "condition_embedder.image_embedder.norm2"),
    ("img_emb.emb_pos", "condition_embedder.image_embedder.pos_embed"),
    ("head.head", "proj_out"),
    ("head.modulation", "scale_shift_table"),
];

/// Modules inside `blocks.N`: native, diffusers.
const BLOCK: [(&str, &str); 19] = [
    ("modulation", "scale_shift_table"),
    ("norm3", "norm2"),
    ("self_attn.q", "attn1.to_q"),
    ("self_attn.k", "attn1.to_k"),
    ("self_attn.v", "attn1.to_v"),
    ("self_attn.o", "attn1.to_out.0"),
    ("self_attn.norm_q", "attn1.norm_q"),
    ("self_attn.norm_k", "attn1.norm_k"),
    ("cross_attn.q", "attn2.to_q"),
    ("cross_attn.k", "attn2.to_k"),
    ("cross_attn.v", "attn2.to_v"),
    ("cross_attn.o", "attn2.to_out.0"),
    ("cross_attn.norm_q", "attn2.norm_q"),
    ("cross_attn.norm_k", "attn2.norm_k"),
    ("cross_attn.k_img", "attn2.add_k_proj"),
    ("cross_attn.v_img", "attn2.add_v_proj"),
    ("cross_attn.norm_k_img", "attn2.norm_added_k"),
    ("ffn.0", "ffn.net.0.proj"),
    ("ffn.2", "ffn.net.2"),
];

/// Prefixes that single files add to every name.
const PREFIXES: [&str; 2] = ["model.diffusion_model.", "diffusion_model."];

/// A tensor that every native checkpoint has and no diffusers checkpoint.
const MARKER: &str = "head.modulation";

/// Whether these are the tensor names of the native layout.
pub fn is_native<'a>(names: impl IntoIterator<Item = &'a str>) -> bool {
    names.into_iter().any(|name| bare(name) == MARKER)
}

/// The diffusers name of a native tensor; `None` for one that no Wan transformer has.
pub fn to_diffusers(native: &str) -> Option<String> {
    let native = bare(native);
    match native.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
        Some((block, rest)) => {
            block.parse::<usize>().ok()?;
            Some(format!("blocks.{block}.{}", renamed(rest, &BLOCK, 0)?))
        }
        None => renamed(native, &MODEL, 0),
    }
}

/// The native name of a diffusers tensor; `None` for one that no Wan transformer has.
pub fn to_native(diffusers: &str) -> Option<String> {
    match diffusers.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
        Some((block, rest)) => {
            block.parse::<usize>().ok()?;
            Some(format!("blocks.{block}.{}", renamed(rest, &BLOCK, 1)?))
        }
        None => renamed(diffusers, &MODEL, 1),
    }
}

/// The name without the prefix of single files.
pub(super) fn bare(name: &str) -> &str {
    PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name)
}

/// Looks up the module in column `from` and replaces it by the other column; parameters keep their names.
fn renamed(name: &str, table: &[(&str, &str)], from: usize) -> Option<String> {
    table.iter().find_map(|(native, diffusers)| {
        let (old, new) = if from == 0 { (native, diffusers) } else { (diffusers, native) };
        match name.strip_prefix(*old)? {
            "" => Some((*new).to_owned()),
            parameter @ (".weight" | ".bias") => Some(format!("{new}{parameter}")),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_has_one_name_in_each_layout() {
        for (native, diffusers) in MODEL {
            assert_eq!(to_diffusers(native).as_deref(), Some(diffusers));
            assert_eq!(to_native(diffusers).as_deref(), Some(native));
        }
        for (native, diffusers) in BLOCK {
            let (native, diffusers) =
                (format!("blocks.12.{native}.bias"), format!("blocks.12.{diffusers}.bias"));
            assert_eq!(to_diffusers(&native), Some(diffusers.clone()));
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
