//! What is registered: names, origins, and texts.

use magcache_core::config::CacheEntry;

use crate::prelude::*;

const CRATES: [&str; 3] = ["magcache-core", "magcache-strategies", "magcache-models"];

fn assert_unique<'a>(kind: &str, named: impl Iterator<Item = (&'a str, &'a str)>) {
    let mut seen = BTreeSet::new();
    for (name, origin) in named {
        assert!(seen.insert(name), "two {kind}s are named {name:?}");
        assert!(CRATES.contains(&origin), "{kind} {name:?} comes from {origin:?}");
        assert_eq!(name, name.to_lowercase(), "{kind} names are lower case");
    }
}

#[test]
fn names_are_unique_and_every_entry_says_its_crate() {
    magcache_models::link();
    assert!(strategies().len() >= 5 && !meta::profiles().is_empty());
    assert!(!meta::models().is_empty());
    assert_unique("strategy", strategies().iter().map(|s| (s.name, s.origin)));
    assert_unique("profile", meta::profiles().iter().map(|p| (p.name, p.origin)));
    assert_unique("model", meta::models().iter().map(|m| (&*m.name, m.origin)));
    assert!(strategies().iter().all(|s| s.origin == "magcache-strategies"));
    assert!(meta::models().iter().all(|m| m.origin == "magcache-models"));
}

#[test]
fn every_strategy_has_its_text() {
    for info in strategies() {
        assert!(!info.summary.is_empty() && !info.paper.is_empty(), "{}", info.name);
        for text in [info.example, info.never] {
            let entry = CacheEntry::from_table("cache[0]", toml::from_str(text).unwrap()).unwrap();
            assert_eq!(entry.name, info.name);
        }
    }
}

#[test]
fn every_profile_reads_and_every_model_finds_its_profiles() {
    magcache_models::link();
    for info in meta::profiles() {
        assert_eq!(Profile::find(info.name).unwrap().name, info.name);
    }
    for model in meta::models() {
        assert!(model.blocks() > 0 && !model.experts.is_empty(), "{}", model.name);
        for name in model.profiles.iter() {
            Profile::find(name).unwrap_or_else(|e| panic!("model {:?}: {e}", model.name));
        }
        assert_eq!(model.problems(), [], "{}", model.name);
    }
}
