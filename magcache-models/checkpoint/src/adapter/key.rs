//! The names of an adapter's tensors: a prefix, a module of the model, and what the tensor is.

/// What precedes modules: of peft, of ComfyUI and most trainers, of diffusers, of kohya's scripts and of
/// `OneTrainer`; or nothing.
pub(super) const PREFIXES: [&str; 7] = [
    "base_model.model.",
    "diffusion_model.",
    "transformer.",
    "lora_unet__",
    "lora_unet_",
    "lora_transformer_",
    "",
];

/// What precedes the modules of the second expert in files of diffusers.
pub(super) const SECOND: &str = "transformer_2.";

/// What precedes the parts for text encoders, longest first, and the encoders that it may mean: of these it
/// is the first that the model has.
const ENCODERS: [(&str, &[Part]); 14] = [
    ("text_encoders.clip_l.transformer.", &[Part::Clip]),
    ("text_encoders.clip_l.", &[Part::Clip]),
    ("text_encoders.t5xxl.transformer.", &[Part::T5]),
    ("text_encoders.t5xxl.", &[Part::T5]),
    ("text_encoders.umt5xxl.transformer.", &[Part::T5]),
    ("text_encoders.umt5xxl.", &[Part::T5]),
    ("text_encoders.", &[]),
    ("text_encoder_2.", &[Part::T5]),
    ("text_encoder.", &[Part::Clip, Part::T5]),
    ("lora_te1_", &[Part::Clip]),
    ("lora_te2_", &[Part::T5]),
    ("lora_te3_", &[Part::T5]),
    ("lora_te_", &[Part::Clip, Part::T5]),
    ("conditioner.", &[]),
];

/// The network that a part of an adapter is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    /// The transformer.
    #[default]
    Network,
    /// CLIP, where it encodes texts.
    Clip,
    /// T5 or UMT5.
    T5,
}

impl Part {
    /// In messages.
    pub(super) fn place(self) -> &'static str {
        match self {
            Self::Network => "this model",
            Self::Clip => "its text encoder CLIP",
            Self::T5 => "its text encoder T5",
        }
    }
}

/// Parts of names that only adapters of other kinds have, and the kind.
const OTHER_KINDS: [(&str, &str); 12] = [
    (".dora_scale", "DoRA"),
    (".lora_magnitude_vector", "DoRA"),
    (".lokr_", "LoKr"),
    (".hada_", "LoHa"),
    (".oft_", "OFT"),
    ("oft_blocks", "OFT"),
    (".a1.weight", "GLoRA"),
    (".b1.weight", "GLoRA"),
    (".set_weight", "an adapter that replaces weights"),
    (".reshape_weight", "an adapter that widens weights"),
    (".lora_B.bias", "an adapter with biases of its own"),
    (".lora_up.bias", "an adapter with biases of its own"),
];

/// What a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Down,
    Up,
    Alpha,
    /// The change of the weight, of the bias, of the modulation, or of the parameter that is named.
    Diff,
    DiffBias,
    DiffModulation,
}

const ENDINGS: [(&str, Kind); 10] = [
    (".lora_down.weight", Kind::Down),
    (".lora_A.weight", Kind::Down),
    (".down.weight", Kind::Down),
    (".lora_up.weight", Kind::Up),
    (".lora_B.weight", Kind::Up),
    (".up.weight", Kind::Up),
    (".alpha", Kind::Alpha),
    (".diff", Kind::Diff),
    (".diff_b", Kind::DiffBias),
    (".diff_m", Kind::DiffModulation),
];

/// A tensor's name without its ending.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key<'a> {
    /// With its prefix.
    pub(super) module: &'a str,
    pub(super) kind: Kind,
    /// The adapter that the name names (`lora_A.default.weight`).
    pub(super) adapter: Option<&'a str>,
}

impl<'a> Key<'a> {
    pub(super) fn parse(name: &'a str) -> Option<Self> {
        if let Some((module, kind)) =
            ENDINGS.iter().find_map(|(ending, kind)| Some((name.strip_suffix(ending)?, *kind)))
        {
            return Some(Self { module, kind, adapter: None });
        }
        let (rest, adapter) = name.strip_suffix(".weight")?.rsplit_once('.')?;
        let ends = [(".lora_A", Kind::Down), (".lora_B", Kind::Up)];
        let (module, kind) = ends.iter().find_map(|(end, kind)| Some((rest.strip_suffix(end)?, *kind)))?;
        Some(Self { module, kind, adapter: Some(adapter) })
    }
}

/// What a tensor is for in a model with these text encoders, and its name without what says so; `None` for
/// an encoder that the model does not have.
pub(super) fn part<'a>(name: &'a str, encoders: &[Part]) -> Option<(Part, &'a str)> {
    let of_encoder = ENCODERS.iter().find_map(|(prefix, parts)| Some((name.strip_prefix(prefix)?, *parts)));
    let Some((rest, parts)) = of_encoder else { return Some((Part::Network, name)) };
    let own = parts.iter().find(|part| encoders.contains(part))?;
    Some((*own, rest))
}

/// The kind of adapter that has a tensor of this name, if it is not one that is read.
pub(super) fn other_kind(name: &str) -> Option<&'static str> {
    OTHER_KINDS.iter().find(|(part, _)| name.contains(part)).map(|(_, kind)| *kind)
}

/// The family whose adapters have such names, in words.
pub(super) fn family(names: &[&str]) -> Option<&'static str> {
    const MARKS: [(&str, &str); 12] = [
        ("double_blocks", "FLUX"),
        ("single_transformer_blocks", "FLUX"),
        ("single_blocks", "FLUX"),
        ("cross_attn", "Wan"),
        ("attn2.to_", "Wan"),
        ("blocks_0_attn", "Wan"),
        ("self_attn_q", "Wan"),
        ("self_attn.q", "Wan"),
        ("joint_blocks", "Stable Diffusion 3"),
        ("down_blocks", "Stable Diffusion"),
        ("input_blocks", "Stable Diffusion"),
        ("transformer_blocks", "another transformer, such as Qwen-Image"),
    ];
    MARKS.iter().find(|(mark, _)| names.iter().any(|name| name.contains(mark))).map(|(_, family)| *family)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ending_says_what_a_tensor_is() {
        let parsed = |name| Key::parse(name).map(|key| (key.module, key.kind, key.adapter));
        assert_eq!(parsed("a.q.lora_A.weight"), Some(("a.q", Kind::Down, None)));
        assert_eq!(parsed("a.q.lora_B.default.weight"), Some(("a.q", Kind::Up, Some("default"))));
        assert_eq!(parsed("lora_unet_a_q.lora_up.weight"), Some(("lora_unet_a_q", Kind::Up, None)));
        assert_eq!(parsed("a.modulation.diff"), Some(("a.modulation", Kind::Diff, None)));
        assert_eq!(parsed("blocks.0.diff_m"), Some(("blocks.0", Kind::DiffModulation, None)));
        assert_eq!(parsed("a.q.weight"), None);
        assert_eq!(other_kind("a.q.lokr_w1"), Some("LoKr"));
    }

    #[test]
    fn a_prefix_says_which_encoder_a_tensor_is_for() {
        let (flux, wan) = ([Part::Clip, Part::T5], [Part::T5]);
        assert_eq!(part("lora_te1_a", &flux), Some((Part::Clip, "a")));
        assert_eq!(part("lora_te1_a", &wan), None, "there is no CLIP");
        assert_eq!(part("lora_te3_a", &flux), Some((Part::T5, "a")));
        assert_eq!(part("text_encoder.a", &flux), Some((Part::Clip, "a")));
        assert_eq!(part("text_encoder.a", &wan), Some((Part::T5, "a")), "the first one is UMT5");
        assert_eq!(part("text_encoders.clip_l.transformer.a", &flux), Some((Part::Clip, "a")));
        assert_eq!(part("text_encoders.gemma.a", &flux), None);
        assert_eq!(part("lora_unet_a", &flux), Some((Part::Network, "lora_unet_a")));
    }
}
