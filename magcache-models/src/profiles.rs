//! The calibration profiles that ship with this crate: published curves, fits and settings, and those of the
//! embedded models.
//!
//! `data/*.toml` is written by `tests/reference/make_profiles.py`, which takes the published numbers from
//! `tests/reference/constants.json`; `python tests/reference/make_profiles.py --check` tells whether it is
//! current. That of `wan2.2-s2v-tiny` was written by `magcache calibrate`. Profiles of models that this
//! project does not include are for users who add such a model in a crate of their own.

use magcache_core::{inventory, meta::ProfileInfo};

/// Registers `data/<name>.toml` under its name.
macro_rules! profiles {
    ($($name:literal),* $(,)?) => {
        $(inventory::submit! {
            ProfileInfo {
                name: $name,
                toml: include_str!(concat!("../data/", $name, ".toml")),
                origin: env!("CARGO_PKG_NAME"),
            }
        })*

        #[cfg(test)]
        const NAMES: &[&str] = &[$($name),*];
    };
}

profiles![
    "cogvideox-2b",
    "cogvideox-5b",
    "cogvideox-5b-i2v",
    "cogvideox1.5-5b",
    "cogvideox1.5-5b-i2v",
    "consisid",
    "cosmos",
    "flux.1-dev",
    "flux.1-kontext-dev",
    "flux.2",
    "flux.2-klein",
    "framepack",
    "framepack-f1",
    "hidream-i1",
    "hunyuan-video-544p",
    "hunyuan-video-720p",
    "latte",
    "ltx-video",
    "lumina-t2x",
    "lumina2",
    "mochi",
    "omnigen2-edit",
    "omnigen2-t2i",
    "opensora",
    "opensora-plan",
    "qwen-image",
    "qwen-image-2512",
    "qwen-image-edit",
    "tangoflux",
    "tiny-flux",
    "wan2.1-i2v-480p",
    "wan2.1-i2v-720p",
    "wan2.1-t2v-1.3b",
    "wan2.1-t2v-14b",
    "wan2.1-t2v-tiny",
    "wan2.1-vace-1.3b",
    "wan2.1-vace-14b",
    "wan2.2-i2v-a14b",
    "wan2.2-i2v-tiny",
    "wan2.2-s2v-tiny",
    "wan2.2-t2v-a14b",
    "wan2.2-t2v-tiny",
    "wan2.2-ti2v-5b",
    "z-image",
    "z-image-turbo",
];

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use magcache_core::{meta, profile::Profile};

    use super::*;

    #[test]
    fn every_profile_parses_under_the_name_that_it_is_registered_by() {
        for info in meta::profiles().iter().filter(|p| p.origin == env!("CARGO_PKG_NAME")) {
            let profile = Profile::parse(info.toml, info.name).unwrap();
            assert_eq!(profile.name, info.name);
            assert!(profile.all_sources().next().is_some(), "{} is empty", info.name);
            for source in profile.all_sources() {
                let published = source.repository.is_some() && source.file.is_some();
                assert!(
                    published || !source.measured.is_empty(),
                    "{}: numbers of no known origin",
                    info.name
                );
            }
        }
    }

    #[test]
    fn every_file_is_registered_once() {
        let registered: Vec<_> = meta::profiles().iter().map(|p| p.name).collect();
        let unique: BTreeSet<_> = registered.iter().copied().collect();
        assert_eq!(registered.len(), unique.len());
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
        let files = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap());
        let files: BTreeSet<_> = files.filter_map(|f| f.strip_suffix(".toml").map(str::to_owned)).collect();
        assert_eq!(files, NAMES.iter().map(|n| (*n).to_owned()).collect());
    }
}
