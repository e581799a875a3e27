//! Which files of a repository a run needs: not both precisions, and not those of other programs.

use std::{collections::BTreeSet, path::Path};

use crate::{HubError, Name, Part, listing::RepoFile};

/// What names a pipeline of diffusers.
const INDEX: &str = "model_index.json";

/// Folders of a pipeline that nothing here reads.
const UNREAD: [&str; 3] = ["safety_checker", "feature_extractor", "unet"];

/// Endings of weights, in order of preference, and those of other programs.
const WEIGHTS: [&str; 4] = [".safetensors", ".pth", ".pt", ".bin"];
const OF_OTHERS: [&str; 7] = [".msgpack", ".h5", ".onnx", ".onnx_data", ".ot", ".tflite", ".mlmodel"];

/// Precisions in names of second copies: `model.fp16.safetensors`.
const PRECISIONS: [&str; 4] = ["fp16", "bf16", "fp8", "fp32"];

/// How a repository is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A folder that is opened as a whole.
    Folder,
    /// One file, or two experts.
    Files,
}

/// What may say more of a file of weights beside it.
const BESIDE: [&str; 2] = ["config.json", "adapter_config.json"];

/// Files of a tokenizer, and the folders of a pipeline that they are in.
const TOKENIZER: [&str; 5] =
    ["tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "spiece.model"];
const TOKENIZERS: [&str; 2] = ["tokenizer", "tokenizer_2"];

/// The files to have, and what they are; the first of [`Kind::Files`] are weights.
pub(crate) fn chosen<'f>(name: &Name, files: &'f [RepoFile]) -> Result<(Kind, Vec<&'f RepoFile>), HubError> {
    match (name.part, &name.variant) {
        (Part::Tokenizer, _) => return tokenizers(name, files).map(|chosen| (Kind::Folder, chosen)),
        (Part::File, _) => return one(name, files).map(|chosen| (Kind::Files, chosen)),
        // The whole name of a file is that file.
        (Part::Model, Some(variant)) if files.iter().any(|file| is_named(file, variant)) => {
            return one(name, files).map(|chosen| (Kind::Files, chosen));
        }
        _ => {}
    }
    let has = |path: &str| files.iter().any(|file| file.path == path);
    let experts =
        ["high_noise_model/config.json", "low_noise_model/config.json"].iter().any(|path| has(path));
    let chosen = if has(INDEX) {
        (Kind::Folder, diffusers(name, files))
    } else if has("config.json") || experts {
        (Kind::Folder, native(files))
    } else {
        (Kind::Files, single(name, files)?)
    };
    if chosen.1.iter().any(|file| is_file_of_weights(&file.path)) {
        Ok(chosen)
    } else {
        Err(HubError::NoWeights { name: name.to_string() })
    }
}

fn is_gguf(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"))
}

/// Whether a file holds weights that are read here, by its name.
pub(crate) fn is_file_of_weights(path: &str) -> bool {
    is_weights(path) || is_gguf(path)
}

fn is_weights(path: &str) -> bool {
    WEIGHTS.iter().any(|ending| path.ends_with(ending))
}

/// Configurations and tokenizers.
fn is_small(path: &str) -> bool {
    [".json", ".txt", ".model"].iter().any(|ending| path.ends_with(ending))
}

/// The precision in the name of a second copy, `fp16` of `model.fp16-00001-of-00002.safetensors`.
fn precision(path: &str) -> Option<&str> {
    let file = path.rsplit('/').next()?;
    file.split(['.', '-']).find(|word| PRECISIONS.contains(word))
}

fn folder(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(folder, _)| folder)
}

fn diffusers<'f>(name: &Name, files: &'f [RepoFile]) -> Vec<&'f RepoFile> {
    let variant = name.variant.as_deref();
    // Folders that have the variant; elsewhere the plain files are taken.
    let with_variant: BTreeSet<&str> = files
        .iter()
        .filter(|file| variant.is_some() && is_weights(&file.path) && precision(&file.path) == variant)
        .filter_map(|file| folder(&file.path))
        .collect();
    let with_safetensors: BTreeSet<&str> = files
        .iter()
        .filter(|file| file.path.ends_with(WEIGHTS[0]))
        .filter_map(|file| folder(&file.path))
        .collect();
    let wanted = |file: &&RepoFile| {
        let Some(folder) = folder(&file.path) else { return file.path == INDEX };
        if UNREAD.contains(&folder)
            || folder.contains('/')
            || OF_OTHERS.iter().any(|e| file.path.ends_with(e))
        {
            return false;
        }
        let own = if with_variant.contains(folder) { variant } else { None };
        if is_weights(&file.path) {
            let best = file.path.ends_with(WEIGHTS[0]) || !with_safetensors.contains(folder);
            return best && precision(&file.path) == own;
        }
        let index = file.path.ends_with(".index.json");
        is_small(&file.path) && (!index || precision(&file.path) == own)
    };
    files.iter().filter(wanted).collect()
}

/// The repositories of the Wan team: everything but what is for people.
fn native(files: &[RepoFile]) -> Vec<&RepoFile> {
    let wanted = |file: &&RepoFile| {
        let parts: Vec<&str> = file.path.split('/').collect();
        let place = match parts.as_slice() {
            [_] => true,
            [folder, .., _] => {
                ["high_noise_model", "low_noise_model", "google", "tokenizer", "text_encoder", "vae"]
                    .contains(folder)
                    || folder.starts_with("wav2vec2")
            }
            [] => false,
        };
        place && (is_weights(&file.path) || is_small(&file.path))
    };
    files.iter().filter(wanted).collect()
}

/// Whether this is the path or the name of a file of weights.
fn is_named(file: &RepoFile, variant: &str) -> bool {
    let is_it = file.path == variant || file.path.ends_with(&format!("/{variant}"));
    is_it && is_file_of_weights(variant)
}

/// One file of weights and what says more of it.
fn one<'f>(name: &Name, files: &'f [RepoFile]) -> Result<Vec<&'f RepoFile>, HubError> {
    let variant = name.variant.as_deref();
    let exact = |path: &str| files.iter().filter(|file| file.path == path).collect::<Vec<_>>();
    let named = |variant: &str| files.iter().filter(|file| is_named(file, variant)).collect::<Vec<_>>();
    let of_name = variant.map(|variant| [exact(variant), named(variant)]).into_iter().flatten();
    let found = match of_name.into_iter().find(|found| found.len() == 1) {
        Some(found) => found,
        None => single(name, files)?,
    };
    let [weights] = found.as_slice() else {
        return Err(ambiguous(name, &found, format!("{} files of weights", found.len())));
    };
    let beside = |file: &&RepoFile| {
        folder(&file.path) == folder(&weights.path)
            && BESIDE.iter().any(|own| file.path.rsplit('/').next() == Some(own))
    };
    Ok(std::iter::once(*weights).chain(files.iter().filter(beside)).collect())
}

/// The files of tokenizers, in the repository itself or in the folders of a pipeline.
fn tokenizers<'f>(name: &Name, files: &'f [RepoFile]) -> Result<Vec<&'f RepoFile>, HubError> {
    let wanted = |file: &&RepoFile| match file.path.rsplit_once('/') {
        None => TOKENIZER.contains(&file.path.as_str()),
        Some((folder, file)) => TOKENIZERS.contains(&folder) && TOKENIZER.contains(&file),
    };
    let found: Vec<&RepoFile> = files.iter().filter(wanted).collect();
    if found.is_empty() {
        return Err(HubError::NoTokenizer { name: name.to_string() });
    }
    Ok(found)
}

/// The error for several files, of which one has to be named.
fn ambiguous(name: &Name, among: &[&RepoFile], what: String) -> HubError {
    let bare = Name { variant: None, ..name.clone() }.to_string();
    HubError::Ambiguous { name: bare, what, variants: variants(among) }
}

/// Files of weights beside each other: the one that the variant names, or two experts.
fn single<'f>(name: &Name, files: &'f [RepoFile]) -> Result<Vec<&'f RepoFile>, HubError> {
    let all: Vec<&RepoFile> = files.iter().filter(|file| is_file_of_weights(&file.path)).collect();
    let named =
        |file: &&&RepoFile| name.variant.as_deref().is_none_or(|variant| has_word(&file.path, variant));
    let mut found: Vec<&RepoFile> = all.iter().filter(named).copied().collect();
    let noise = |file: &RepoFile, word: &str| file.path.to_ascii_lowercase().contains(word);
    let pair = matches!(found.as_slice(), [a, b] if noise(a, "high") && noise(b, "low"))
        || matches!(found.as_slice(), [a, b] if noise(a, "low") && noise(b, "high"));
    if found.len() == 1 || pair {
        found.sort_by_key(|file| !noise(file, "high"));
        return Ok(found);
    }
    if all.is_empty() {
        return Err(HubError::NoWeights { name: name.to_string() });
    }
    let among = if found.is_empty() { &all } else { &found };
    let what = match (&name.variant, found.len()) {
        (Some(variant), 0) => format!("no file named like {variant} among {}", all.len()),
        (_, count) => format!("{count} files of weights"),
    };
    Err(ambiguous(name, among, what))
}

/// Whether a path has the word, not as a part of another: `Q4_K` is not in `Q4_K_M`.
fn has_word(path: &str, word: &str) -> bool {
    let (path, word) = (path.to_ascii_lowercase(), word.to_ascii_lowercase());
    path.match_indices(&word).any(|(at, _)| {
        let edge = |c: Option<char>| c.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '_');
        let after = path.get(at + word.len()..).and_then(|rest| rest.chars().next());
        edge(path.get(..at).and_then(|rest| rest.chars().last())) && edge(after)
    }) || path == word
}

/// Words that name one file each: the last part of its name, or the whole.
fn variants(files: &[&RepoFile]) -> Vec<String> {
    let stem = |file: &RepoFile| {
        let name = file.path.rsplit('/').next().unwrap_or_default();
        name.rsplit_once('.').map_or(name, |(stem, _)| stem).to_owned()
    };
    let last = |file: &RepoFile| stem(file).rsplit('-').next().unwrap_or_default().to_owned();
    let words: BTreeSet<String> = files.iter().map(|file| last(file)).collect();
    let short = words.len() == files.len() || words.len() * 2 == files.len();
    if short { words.into_iter().collect() } else { files.iter().map(|file| stem(file)).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(paths: &[&str]) -> Vec<RepoFile> {
        let file = |path: &&str| serde_json::from_value(serde_json::json!({ "rfilename": path, "size": 1 }));
        paths.iter().map(|path| file(path).expect("is one")).collect()
    }

    fn picked(name: &str, paths: &[&str]) -> Vec<String> {
        let files = files(paths);
        let (_, chosen) = chosen(&Name::parse(name).expect("a name"), &files).expect("has weights");
        chosen.into_iter().map(|file| file.path.clone()).collect()
    }

    #[test]
    fn a_pipeline_is_taken_in_one_precision() {
        let paths = [
            "README.md",
            "model_index.json",
            "flux1-dev.safetensors",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
            "vae/diffusion_pytorch_model.fp16.safetensors",
            "vae/diffusion_pytorch_model.bin",
            "vae/flax_model.msgpack",
            "tokenizer/spiece.model",
            "transformer/model-00001-of-00002.safetensors",
            "transformer/model.safetensors.index.json",
            "safety_checker/model.safetensors",
        ];
        let plain = picked("a/b", &paths);
        assert_eq!(plain, [paths[1], paths[3], paths[4], paths[8], paths[9], paths[10]]);
        let half = picked("a/b:fp16", &paths);
        assert!(half.contains(&paths[5].to_owned()) && !half.contains(&paths[4].to_owned()));
        assert!(half.contains(&paths[9].to_owned()), "where there is no fp16, the plain file");
    }

    #[test]
    fn a_file_of_a_pipeline_is_taken_alone() {
        let paths = [
            "model_index.json",
            "flux1-dev.safetensors",
            "ae.safetensors",
            "config.json",
            "lora/adapter_model.safetensors",
            "lora/adapter_config.json",
            "tokenizer/vocab.json",
            "tokenizer_2/spiece.model",
            "transformer/ae.safetensors",
        ];
        let of = |name: &str, part| {
            let files = files(&paths);
            let (kind, chosen) = chosen(&Name::parse(name).expect("a name").of(part), &files)?;
            Ok::<_, HubError>((kind, chosen.into_iter().map(|file| file.path.clone()).collect::<Vec<_>>()))
        };
        let flux = (Kind::Files, vec![paths[1].to_owned(), paths[3].to_owned()]);
        assert_eq!(of("a/b:flux1-dev.safetensors", Part::File).expect("is there"), flux);
        assert_eq!(of("a/b:flux1-dev.safetensors", Part::Model).expect("is there"), flux, "the whole name");
        assert_eq!(of("a/b:ae.safetensors", Part::File).expect("the path").1[0], paths[2]);
        assert_eq!(of("a/b:adapter_model", Part::File).expect("the stem").1, paths[4..6]);
        assert!(matches!(of("a/b", Part::File), Err(HubError::Ambiguous { .. })));
        let tokenizers = of("a/b", Part::Tokenizer).expect("two");
        assert_eq!(tokenizers, (Kind::Folder, paths[6..8].iter().map(|path| (*path).to_owned()).collect()));
    }

    #[test]
    fn one_of_several_files_has_to_be_named() {
        let paths = [
            "README.md",
            "wan2.1-t2v-14b-Q4_K_M.gguf",
            "wan2.1-t2v-14b-Q4_K_S.gguf",
            "wan2.1-t2v-14b-Q8_0.gguf",
        ];
        assert_eq!(picked("a/b:Q4_K_M", &paths), [paths[1]]);
        assert_eq!(picked("a/b:q8_0", &paths), [paths[3]]);
        let all = files(&paths);
        for (name, what) in [("a/b", "3 files of weights"), ("a/b:Q5_0", "no file named like Q5_0 among 3")] {
            let error = chosen(&Name::parse(name).expect("a name"), &all).expect_err("is ambiguous");
            assert!(error.to_string().contains(what), "{error}");
            let hint = error.hint().expect("a hint");
            assert_eq!(hint, "a/b:VARIANT with one of Q4_K_M, Q4_K_S, Q8_0");
        }
        let pair = [
            "LowNoise/Wan-LowNoise-Q4_0.gguf",
            "HighNoise/Wan-HighNoise-Q4_0.gguf",
            "HighNoise/Wan-HighNoise-Q8_0.gguf",
        ];
        assert_eq!(picked("a/b:Q4_0", &pair), [pair[1], pair[0]]);
        assert!(chosen(&Name::parse("a/b").expect("a name"), &files(&["README.md"])).is_err());
    }
}
