//! Files that are given in place of parts of a checkpoint's folder, or in place of the whole folder.

use std::path::{Path, PathBuf};

use candle_core::Device;

use crate::{
    checkpoint::{Adapter, CheckpointError, Folder, WeightDtype, Weights},
    recognise::{self, Part, Role},
    text::TokenizerKind,
};

/// Files of weights as they were given: what is in them decides what they are, not their names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GivenFiles {
    /// The transformer, or the first expert's, which denoises at high noise.
    pub transformer: Option<PathBuf>,
    /// The second expert's.
    pub transformer_2: Option<PathBuf>,
    /// Text encoders.
    pub text_encoders: Vec<PathBuf>,
    /// The encoder of images.
    pub image_encoder: Option<PathBuf>,
    /// The autoencoder.
    pub vae: Option<PathBuf>,
    /// Folders with tokenizers, or with folders of them as models have.
    pub tokenizers: Vec<PathBuf>,
}

/// Folders of tokenizers in a model.
const TOKENIZERS: [&str; 2] = ["tokenizer", "tokenizer_2"];

/// One of these files and what is in it.
#[derive(Clone, Debug)]
pub struct PartFile {
    /// The folder that it is in.
    pub folder: Folder,
    /// Its name there.
    pub file: String,
    /// The part of it.
    pub part: Part,
}

/// Endings of files of weights.
const ENDINGS: [&str; 6] = [".safetensors", ".gguf", ".pth", ".pt", ".bin", ".sft"];

impl GivenFiles {
    /// Whether no file is given.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The part with this role: in the file that is given for it, or else in the transformer's, which may
    /// hold everything.
    ///
    /// # Errors
    /// A file that cannot be read, or that has no such part although it was given for it.
    pub fn part(&self, role: Role) -> Result<Option<PartFile>, CheckpointError> {
        let own: Vec<&PathBuf> = match role {
            Role::Transformer => self.transformer.iter().collect(),
            Role::TextEncoder | Role::TextEncoderClip => self.text_encoders.iter().collect(),
            Role::ImageEncoder => self.image_encoder.iter().collect(),
            Role::Vae => self.vae.iter().collect(),
        };
        let encoders = [Role::TextEncoder, Role::TextEncoderClip];
        let roles = if encoders.contains(&role) { encoders.as_slice() } else { std::slice::from_ref(&role) };
        let mut found: Option<PartFile> = None;
        for path in own {
            let (folder, file, weights) = open(path)?;
            // Whether it is any of the parts that it may have been given for.
            recognise::part(&weights, roles)?;
            let Some(part) = recognise::parts(&weights).into_iter().find(|part| part.layout.role == role)
            else {
                continue;
            };
            if let Some(other) = &found {
                return Err(two(&other.place(), &path.display().to_string(), role));
            }
            found = Some(PartFile { folder, file, part });
        }
        match (found, &self.transformer) {
            (None, Some(path)) if role != Role::Transformer => {
                let (folder, file, weights) = open(path)?;
                let part = recognise::parts(&weights).into_iter().find(|part| part.layout.role == role);
                Ok(part.map(|part| PartFile { folder, file, part }))
            }
            (found, _) => Ok(found),
        }
    }

    /// The second expert's transformer.
    ///
    /// # Errors
    /// As [`Self::part`]; two experts in the order that their names deny.
    pub fn second(&self) -> Result<Option<PartFile>, CheckpointError> {
        let Some(path) = &self.transformer_2 else { return Ok(None) };
        let first = self.transformer.as_deref().map(noise_of);
        if (first, noise_of(path)) == (Some(Some(Noise::Low)), Some(Noise::High)) {
            let reason = format!(
                "its name says high noise, that of the first expert, {}, says low",
                self.transformer.as_deref().unwrap_or(Path::new("")).display()
            );
            let hint = "--transformer is the one for high noise, --transformer-2 the one for low; rename the files if \
                        their names are wrong";
            let file = path.display().to_string();
            return Err(CheckpointError::Config { file, reason, hint: Some(hint.to_owned()) });
        }
        Self { transformer: Some(path.clone()), ..Self::default() }.part(Role::Transformer)
    }

    /// The folder of the given tokenizer of this kind.
    ///
    /// # Errors
    /// A folder that cannot be read, or without any tokenizer.
    pub fn tokenizer(&self, kind: TokenizerKind) -> Result<Option<Folder>, CheckpointError> {
        for path in &self.tokenizers {
            let folder = Folder::open(path)?;
            let inside = TOKENIZERS.map(|name| folder.sub(name));
            let all: Vec<_> = [folder.clone()]
                .into_iter()
                .chain(inside)
                .filter_map(|folder| Some((TokenizerKind::of(&folder)?, folder)))
                .collect();
            if all.is_empty() {
                let hint = "tokenizer.json, vocab.json with merges.txt for CLIP or spiece.model for T5, in it or in its \
                            folders `tokenizer` and `tokenizer_2`";
                return Err(CheckpointError::Config {
                    file: folder.describe(),
                    reason: "it has no tokenizer that is known".to_owned(),
                    hint: Some(hint.to_owned()),
                });
            }
            if let Some((_, folder)) = all.into_iter().find(|(found, _)| *found == kind) {
                return Ok(Some(folder));
            }
        }
        Ok(None)
    }

    /// The weight files in a folder that has no index, by what is in them: two experts by their names.
    ///
    /// # Errors
    /// Two files for one part.
    pub fn in_folder(folder: &Folder) -> Result<Self, CheckpointError> {
        let mut given = Self::default();
        let mut transformers: Vec<PathBuf> = Vec::new();
        let Some(path) = folder.path() else { return Ok(given) };
        for file in folder.files().iter().filter(|file| ENDINGS.iter().any(|ending| file.ends_with(ending))) {
            let path = path.join(file);
            // What cannot be read is told when it is needed.
            let Ok((.., weights)) = open(&path) else { continue };
            for part in recognise::parts(&weights) {
                let taken = match part.layout.role {
                    Role::Transformer => {
                        transformers.push(path.clone());
                        continue;
                    }
                    Role::TextEncoder | Role::TextEncoderClip => {
                        given.text_encoders.push(path.clone());
                        continue;
                    }
                    Role::ImageEncoder => given.image_encoder.replace(path.clone()),
                    Role::Vae => given.vae.replace(path.clone()),
                };
                if let Some(other) = taken.filter(|other| *other != path) {
                    let (a, b) = (other.display().to_string(), path.display().to_string());
                    return Err(two(&a, &b, part.layout.role));
                }
            }
        }
        transformers.dedup();
        given.text_encoders.dedup();
        (given.transformer, given.transformer_2) = match transformers.as_slice() {
            [] => (None, None),
            [one] => (Some(one.clone()), None),
            [a, b] => match (noise_of(a), noise_of(b)) {
                (Some(Noise::High), Some(Noise::Low)) => (Some(a.clone()), Some(b.clone())),
                (Some(Noise::Low), Some(Noise::High)) => (Some(b.clone()), Some(a.clone())),
                _ => return Err(two(&a.display().to_string(), &b.display().to_string(), Role::Transformer)),
            },
            [a, b, ..] => {
                return Err(two(&a.display().to_string(), &b.display().to_string(), Role::Transformer));
            }
        };
        Ok(given)
    }
}

impl PartFile {
    /// Where it is, for messages.
    pub fn place(&self) -> String {
        self.folder.describe_file(&self.file)
    }

    /// Checks that its layout is one of these.
    ///
    /// # Errors
    /// A part of another model; `expected` is what the model reads.
    pub fn require(&self, layouts: &[&str], expected: &str) -> Result<(), CheckpointError> {
        if layouts.iter().any(|layout| self.part.is(layout)) {
            return Ok(());
        }
        let (file, found) = (self.place(), self.part.describe());
        Err(CheckpointError::WrongArchitecture { file, expected: expected.to_owned(), found })
    }
}

fn open(path: &Path) -> Result<(Folder, String, Weights), CheckpointError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = Folder::open(parent)?;
    let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let weights = Weights::open_files(&folder, &[&file], &Device::Cpu, WeightDtype::Keep)?;
    Ok((folder, file, weights))
}

/// The error for two files of which only one can be used.
fn two(a: &str, b: &str, role: Role) -> CheckpointError {
    let role = role.name();
    let hint = match role {
        "transformer" => {
            "which is it? --transformer FILE; of two experts, the one for high noise is --transformer FILE, the other \
             --transformer-2 FILE, unless their names say high and low"
        }
        "autoencoder" => "which is it? --vae FILE",
        "image encoder" => "which is it? --image-encoder FILE",
        _ => "which is it? --text-encoder FILE",
    };
    let reason = format!("it is a {role}, and so is {a}");
    CheckpointError::Config { file: b.to_owned(), reason, hint: Some(hint.to_owned()) }
}

/// Which of two experts the name of a file or of its folder says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noise {
    /// The first.
    High,
    /// The second.
    Low,
}

/// What the name of a file, or else of its folder, says of two experts.
pub fn noise_of(path: &Path) -> Option<Noise> {
    let says = |name: &str| {
        let name = name.to_ascii_lowercase();
        let words: Vec<&str> = name.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        let has = |word: &str| words.iter().any(|own| *own == word || *own == format!("{word}noise"));
        match (has("high"), has("low")) {
            (true, false) => Some(Noise::High),
            (false, true) => Some(Noise::Low),
            _ => None,
        }
    };
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    name(path)
        .and_then(|name| says(&name))
        .or_else(|| path.parent().and_then(name).and_then(|name| says(&name)))
}

/// An adapter, and the expert that it is for if it is not for all.
#[derive(Clone, Debug)]
pub struct GivenAdapter {
    /// The file, its strength and what is done with what does not fit.
    pub adapter: Adapter,
    /// The only expert that it is for.
    pub expert: Option<Noise>,
}

/// The adapters of one expert of `experts`: those for it, and those of pairs whose names say it.
pub fn adapters_of(all: &[GivenAdapter], expert: usize, experts: usize) -> Vec<Adapter> {
    let own = if expert == 0 { Noise::High } else { Noise::Low };
    let is_own = |given: &&GivenAdapter| {
        let said = given.expert.or_else(|| noise_of(&given.adapter.path)).filter(|_| experts > 1);
        said.is_none_or(|said| said == own)
    };
    all.iter().filter(is_own).map(|given| given.adapter.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_which_expert_a_file_is() {
        for (path, noise) in [
            ("wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors", Some(Noise::High)),
            ("Wan2.2-T2V-A14B-LowNoise-Q4_K_M.gguf", Some(Noise::Low)),
            ("HighNoise/Wan2.2-T2V-A14B-Q8_0.gguf", Some(Noise::High)),
            ("Wan2_2-T2V-A14B-LOW_fp8_e4m3fn_scaled_KJ.safetensors", Some(Noise::Low)),
            ("wan2.1_t2v_14B.safetensors", None),
            ("highway.safetensors", None),
            ("high_and_low.safetensors", None),
        ] {
            assert_eq!(noise_of(Path::new(path)), noise, "{path}");
        }
    }
}
