//! What is registered: names, origins, and that every example text is valid.

use std::collections::HashSet;

use magcache_core::{ConfigError, config::CacheEntry, hint::Hint, meta, profile::Profile};

const CRATES: [&str; 3] = ["magcache-core", "magcache-strategies", "magcache-models"];

fn link() {
    magcache_strategies::link();
    magcache_models::link();
}

fn assert_unique<'a>(kind: &str, named: impl Iterator<Item = (&'a str, &'a str)>) {
    let mut seen = HashSet::new();
    for (name, origin) in named {
        assert!(seen.insert(name), "two {kind}s are named {name:?}");
        assert!(CRATES.contains(&origin), "{kind} {name:?} comes from {origin:?}");
        assert_eq!(name, name.to_lowercase(), "{kind} names are lower case");
    }
}

#[test]
fn names_are_unique_and_every_entry_says_its_crate() {
    link();
    assert!(meta::strategies().len() >= 5 && !meta::profiles().is_empty());
    assert!(!meta::models().is_empty());
    assert_unique("strategy", meta::strategies().iter().map(|s| (s.name, s.origin)));
    assert_unique("profile", meta::profiles().iter().map(|p| (p.name, p.origin)));
    assert_unique("model", meta::models().iter().map(|m| (&*m.name, m.origin)));
    assert!(meta::strategies().iter().all(|s| s.origin == "magcache-strategies"));
    assert!(meta::models().iter().all(|m| m.origin == "magcache-models"));
}

#[test]
fn every_strategy_has_its_text() {
    link();
    for info in meta::strategies() {
        assert!(!info.summary.is_empty() && !info.paper.is_empty(), "{}", info.name);
        for text in [info.example, info.never] {
            let table: toml::Table = toml::from_str(text).unwrap();
            let entry = CacheEntry::from_table("cache[0]", table.clone()).unwrap();
            assert_eq!(entry.name, info.name);
            let written = entry.to_table().unwrap();
            let again = CacheEntry::from_table("cache[0]", written.clone()).unwrap();
            assert_eq!(again.to_table().unwrap(), written);
            let mut wrong = table;
            wrong.insert("tresholds".to_owned(), 1.into());
            let error = CacheEntry::from_table("cache[0]", wrong).unwrap_err();
            assert!(matches!(&error, ConfigError::UnknownKey { key, .. } if key == "tresholds"), "{error}");
            assert!(error.to_string().contains("tresholds"), "{error}");
        }
    }
}

#[test]
fn every_profile_reads_and_every_model_finds_its_profiles() {
    link();
    for info in meta::profiles() {
        let profile = Profile::find(info.name).unwrap();
        assert_eq!(profile.name, info.name);
    }
    for model in meta::models() {
        assert!(model.blocks() > 0 && !model.experts.is_empty(), "{}", model.name);
        for name in model.profiles.iter() {
            Profile::find(name).unwrap_or_else(|e| panic!("model {:?}: {e}", model.name));
        }
        assert_eq!(model.problems(), [], "{}", model.name);
    }
}

#[test]
fn an_unknown_name_is_answered_with_the_nearest() {
    link();
    let table = toml::from_str("strategy = \"magcahe\"").unwrap();
    let error = CacheEntry::from_table("cache[0]", table).unwrap_err();
    assert_eq!(error.hint().unwrap(), "did you mean \"magcache\"?");
}
