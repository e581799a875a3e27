//! Paths in configuration files: relative to the file's folder, so that a file means the same from
//! everywhere.

use std::path::{Path, PathBuf, absolute};

use magcache_core::meta;
use magcache_hub::Part;

use super::{Config, builtin, flag, model_name};
use crate::{
    args::{Sampling, Writing},
    files::Writes,
};

impl Config {
    /// Converts the paths of a file in `folder` to paths relative to the working folder.
    pub(super) fn read_from(mut self, folder: &Path) -> Self {
        self.paths(folder, &mut |path| *path = folder.join(&*path));
        // What is not a file may be the name of a profile, or a mistyped one.
        self.profiles(&mut |profile| {
            let path = folder.join(&*profile);
            if let (true, Some(path)) = (path.is_file(), path.to_str()) {
                path.clone_into(profile);
            }
        });
        self
    }

    /// The configuration as a file in `folder`: paths in and below the folder become relative, so that it can
    /// be moved with its contents; all others become absolute.
    pub(crate) fn stored_in(&self, folder: &Path) -> Self {
        let mut stored = self.clone();
        stored.paths(Path::new(""), &mut |path| *path = seen_from(folder, path));
        stored.profiles(&mut |profile| {
            let path = Path::new(profile.as_str());
            if let (true, Some(path)) = (path.is_file(), seen_from(folder, path).to_str()) {
                path.clone_into(profile);
            }
        });
        stored
    }

    /// Calls `each` with every path, relative to `here`; files on the hub and inside the program have none.
    fn paths(&mut self, here: &Path, each: &mut dyn FnMut(&mut PathBuf)) {
        let named = |(part, path): &(Part, &mut PathBuf)| {
            model_name::part_on_hub(*part, path, here).is_some() || builtin::name(path).is_some()
        };
        self.weight_files().filter(|file| !named(file)).for_each(|(_, path)| each(path));
        let Self { weights, sampling, output, .. } = self;
        let own = [weights, &mut output.path].into_iter().flatten();
        own.chain(sampling.files_mut()).for_each(each);
    }

    /// Calls `each` with everything that may be the path of a profile.
    fn profiles(&mut self, each: &mut dyn FnMut(&mut String)) {
        let built_in = |name: &str| meta::profiles().iter().any(|profile| profile.name == name);
        let mut each = |name: &mut String| {
            if !built_in(name) {
                each(name);
            }
        };
        self.target.iter_mut().filter_map(|target| target.profile.as_mut()).for_each(&mut each);
        self.cache.iter_mut().for_each(|table| profiles_of(table, &mut each));
    }
}

impl Writes {
    /// The files that a planned run reads: its configuration, the images and a recorded schedule.
    pub(crate) fn of_run(writing: Writing, flags: &Sampling, config: &Config) -> Self {
        let replayed = flags.cache.as_deref().and_then(|cache| cache.strip_prefix("replay:"));
        let own = Self::new(writing)
            .reads("--config", flags.config.as_deref())
            .reads("--cache replay:", replayed.map(Path::new));
        let files = config.sampling.files().into_iter();
        files.fold(own, |all, (option, path)| all.reads(&flag(option), Some(path)))
    }
}

/// The profiles of a `[[cache]]` table and of its members.
fn profiles_of(table: &mut toml::Table, each: &mut dyn FnMut(&mut String)) {
    if let Some(toml::Value::String(name)) = table.get_mut("profile") {
        each(name);
    }
    let members = table.get_mut("members").and_then(toml::Value::as_array_mut);
    for member in members.into_iter().flatten().filter_map(toml::Value::as_table_mut) {
        profiles_of(member, each);
    }
}

/// `path` as stored in a file in `folder`; both are given relative to the working folder.
fn seen_from(folder: &Path, path: &Path) -> PathBuf {
    let here = |path: &Path| absolute(path).unwrap_or_else(|_| path.to_owned());
    // An empty path is the working folder itself, which `absolute` refuses.
    let folder = if folder.as_os_str().is_empty() { here(Path::new(".")) } else { here(folder) };
    let path = here(path);
    path.strip_prefix(&folder).map_or_else(|_| path.clone(), Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
weights = "/models/wan"
[files]
vae = "parts/vae.safetensors"
transformer = "owner/name:model-Q4_K.gguf"
tokenizer = ["own", "openai/clip-vit-large-patch14"]
[[lora]]
file = "owner/style"
[[lora]]
file = "builtin:4-step"
[sampling]
image = "in/first.png"
last_image = "last.png"
[output]
path = "out.mp4"
[[cache]]
strategy = "priority"
[[cache.members]]
strategy = "magcache"
profile = "wan2.1-t2v-1.3b"
[[cache.members]]
strategy = "teacache"
profile = "own.toml"
"#;

    #[test]
    fn a_file_says_the_same_from_everywhere() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("project");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("own.toml"), "").unwrap();
        let typed: Config = toml::from_str(FILE).unwrap();
        let read = typed.clone().read_from(&folder);
        assert_eq!(read.weights.as_deref(), Some(Path::new("/models/wan")));
        assert_eq!(read.sampling.image, Some(folder.join("in/first.png")));
        // Files on the hub are where they are.
        assert_eq!(read.files.vae, Some(folder.join("parts/vae.safetensors")));
        assert_eq!(read.files.transformer, typed.files.transformer);
        assert_eq!(read.files.tokenizer[1], typed.files.tokenizer[1]);
        assert_eq!(read.files.tokenizer[0], folder.join("own"));
        assert_eq!(read.lora[0].file, Path::new("owner/style"));
        assert_eq!(read.lora[1].file, Path::new("builtin:4-step"));
        assert_eq!(read.output.path, Some(folder.join("out.mp4")));
        let members = |config: &Config| -> Vec<String> {
            let members = config.cache[0]["members"].as_array().unwrap().iter();
            members.map(|member| member["profile"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(members(&read)[0], "wan2.1-t2v-1.3b");
        assert_eq!(members(&read)[1], folder.join("own.toml").to_str().unwrap());
        // In its own folder it equals what was typed; elsewhere its paths are absolute.
        assert_eq!(read.stored_in(&folder).to_toml().unwrap(), typed.to_toml().unwrap());
        let elsewhere = read.stored_in(root.path());
        assert_eq!(elsewhere.sampling.last_image.as_deref(), Some(Path::new("project/last.png")));
        let below = read.stored_in(&folder.join("in"));
        assert_eq!(below.sampling.image.as_deref(), Some(Path::new("first.png")));
        assert_eq!(below.sampling.last_image, Some(folder.join("last.png")));
    }
}
