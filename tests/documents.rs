//! What the documents say is there, is there.

use std::{collections::BTreeMap, fs, path::Path};

/// The functions of every Rust file below `folder`, by the file's name.
fn functions(folder: &Path, out: &mut BTreeMap<String, Vec<String>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let named = text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            out.entry(name).or_default().extend(named.map(str::to_owned));
        }
    }
}

#[test]
fn every_test_that_the_rules_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut known = BTreeMap::new();
    for folder in ["tests", "magcache-core/src/testing", "magcache-cli/src"] {
        functions(&root.join(folder), &mut known);
    }
    let text = fs::read_to_string(root.join("docs/spec/strategy.md")).unwrap();
    let mut named = 0;
    for word in text.split('`').skip(1).step_by(2).map(|word| word.trim_start_matches("tests/")) {
        if let Some((file, function)) = word.split_once(".rs::") {
            let there = known.get(&format!("{file}.rs")).is_some_and(|f| f.iter().any(|f| f == function));
            assert!(there, "docs/spec/strategy.md names `{word}`");
            named += 1;
        } else if word.starts_with("check_") && !word.ends_with('…') {
            let kit = ["rules.rs", "resume.rs", "retry.rs", "state.rs"];
            let mut rules = kit.iter().flat_map(|file| &known[*file]);
            assert!(rules.any(|f| f == word), "docs/spec/strategy.md names `{word}`");
            named += 1;
        }
    }
    assert!(named > 40, "only {named} tests are named");
}
