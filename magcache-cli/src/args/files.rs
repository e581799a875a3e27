//! Files of weights: in place of parts of a checkpoint, and adapters. One definition for the flags and for
//! the configuration. Each is a path, or a file on the hub, `OWNER/NAME:FILE`.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use magcache_core::schemars;
use magcache_hub::Part;
use magcache_models::{
    checkpoint::Adapter,
    pipeline::{GivenAdapter, GivenFiles, Noise},
};
use serde::{Deserialize, Serialize};

const WEIGHTS: &str = "Weights";

/// Files in place of parts of the checkpoint, or all of it: safetensors, GGUF or PyTorch, recognised by what
/// is in them. `OWNER/NAME:FILE` is a file on the hub.
#[derive(Clone, Debug, Default, PartialEq, ClapArgs, Serialize, Deserialize, schemars::JsonSchema)]
#[command(next_help_heading = WEIGHTS)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Files {
    /// File with the transformer, or with that of the first expert, which denoises at high noise.
    #[arg(long, value_name = "FILE|NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) transformer: Option<PathBuf>,
    /// File with the transformer of the second expert.
    #[arg(long, value_name = "FILE|NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) transformer_2: Option<PathBuf>,
    /// File with a text encoder; may be given several times.
    #[arg(long, value_name = "FILE|NAME")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) text_encoder: Vec<PathBuf>,
    /// File with the encoder of images.
    #[arg(long, value_name = "FILE|NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) image_encoder: Option<PathBuf>,
    /// File with the autoencoder.
    #[arg(long, value_name = "FILE|NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) vae: Option<PathBuf>,
    /// Folder with a tokenizer, or with folders of them as models have; may be given several times. On the
    /// hub OWNER/NAME.
    #[arg(long, value_name = "DIR|NAME")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tokenizer: Vec<PathBuf>,
}

impl Files {
    /// These over those of a file.
    pub(crate) fn over(self, file: Self) -> Self {
        Self {
            transformer: self.transformer.or(file.transformer),
            transformer_2: self.transformer_2.or(file.transformer_2),
            text_encoder: if self.text_encoder.is_empty() { file.text_encoder } else { self.text_encoder },
            image_encoder: self.image_encoder.or(file.image_encoder),
            vae: self.vae.or(file.vae),
            tokenizer: if self.tokenizer.is_empty() { file.tokenizer } else { self.tokenizer },
        }
    }

    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Every path, and what it is of a repository on the hub.
    pub(crate) fn paths_mut(&mut self) -> impl Iterator<Item = (Part, &mut PathBuf)> {
        let Self { transformer, transformer_2, text_encoder, image_encoder, vae, tokenizer } = self;
        let single = [transformer, transformer_2, image_encoder, vae];
        let files = single.into_iter().flatten().chain(text_encoder);
        files.map(|path| (Part::File, path)).chain(tokenizer.iter_mut().map(|path| (Part::Tokenizer, path)))
    }

    pub(crate) fn given(&self) -> GivenFiles {
        GivenFiles {
            transformer: self.transformer.clone(),
            transformer_2: self.transformer_2.clone(),
            text_encoders: self.text_encoder.clone(),
            image_encoder: self.image_encoder.clone(),
            vae: self.vae.clone(),
            tokenizers: self.tokenizer.clone(),
        }
    }
}

/// The adapters of a run.
#[derive(Clone, Debug, Default, ClapArgs)]
#[command(next_help_heading = WEIGHTS)]
pub(crate) struct Loras {
    /// Apply this adapter, at strength 1 or at the one behind the last colon; may be given several times. Of
    /// two experts, high=FILE and low=FILE are for one of them, and so are files whose names say it. A file
    /// on the hub is OWNER/NAME:FILE, one inside the program builtin:NAME
    #[arg(long, value_name = "[high=|low=]FILE[:STRENGTH]", value_parser = parse)]
    pub(crate) lora: Vec<Lora>,
    /// Leave out what of an adapter has no place in the model
    #[arg(long)]
    pub(crate) lora_skip_unknown: bool,
}

/// An adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lora {
    /// The file, or `builtin:NAME` for one inside the program.
    pub(crate) file: PathBuf,
    /// Factor of what it adds; below 0 it acts in reverse.
    #[serde(default = "one")]
    pub(crate) strength: f64,
    /// The only expert that it is for, `high` or `low` noise; without it the file's name decides, or it is
    /// for both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expert: Option<ExpertName>,
    /// Whether what has no place in the model is left out; otherwise that is an error.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) skip_unknown: bool,
}

/// An expert by the noise that it denoises at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ExpertName {
    /// The first.
    High,
    /// The second.
    Low,
}

fn one() -> f64 {
    1.0
}

impl Lora {
    pub(crate) fn given(&self) -> GivenAdapter {
        GivenAdapter {
            adapter: Adapter {
                path: self.file.clone(),
                folder: None,
                strength: self.strength,
                skip_unknown: self.skip_unknown,
            },
            expert: self.expert.map(|expert| match expert {
                ExpertName::High => Noise::High,
                ExpertName::Low => Noise::Low,
            }),
        }
    }
}

/// `[high=|low=]FILE[:STRENGTH]`. A colon that no number follows is part of the name.
fn parse(typed: &str) -> Result<Lora, String> {
    let (expert, rest) = match typed.split_once('=') {
        Some(("high", rest)) => (Some(ExpertName::High), rest),
        Some(("low", rest)) => (Some(ExpertName::Low), rest),
        _ => (None, typed),
    };
    let number = |text: &str| text.parse::<f64>().ok();
    let (file, strength) = match rest.rsplit_once(':').and_then(|(file, text)| Some((file, number(text)?))) {
        Some((file, strength)) => (file, strength),
        None => (rest, one()),
    };
    if file.is_empty() {
        return Err("no file: --lora FILE:0.8".to_owned());
    }
    if !strength.is_finite() {
        return Err(format!("the strength is {strength}, it must be a number"));
    }
    Ok(Lora { file: file.into(), strength, expert, skip_unknown: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_is_typed_with_its_strength_and_its_expert() {
        let typed = |text: &str| {
            parse(text).map(|lora| (lora.file.display().to_string(), lora.strength, lora.expert))
        };
        assert_eq!(typed("a.safetensors"), Ok(("a.safetensors".into(), 1.0, None)));
        assert_eq!(
            typed("high=dir/a.safetensors:-0.5"),
            Ok(("dir/a.safetensors".into(), -0.5, Some(ExpertName::High)))
        );
        assert_eq!(typed("C:\\a.safetensors"), Ok(("C:\\a.safetensors".into(), 1.0, None)));
        let named = ("a/b:c.safetensors".into(), 0.5, None);
        assert_eq!(typed("a/b:c.safetensors:0.5"), Ok(named));
        assert!(typed("a:nan").is_err() && typed(":1").is_err());
    }
}
