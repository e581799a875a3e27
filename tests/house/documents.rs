//! What the documents refer to exists.

use std::{collections::BTreeMap, fs, path::Path};

use magcache_core::Why;

#[test]
fn every_test_that_the_rules_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut known: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let folders = ["tests", "magcache-core/src/testing", "magcache-cli/src"].map(|folder| root.join(folder));
    for (path, text) in crate::texts() {
        if !folders.iter().any(|folder| path.starts_with(folder)) {
            continue;
        }
        let named = text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        known.entry(name).or_default().extend(named.map(str::to_owned));
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

/// The Rust blocks of a document, with the files that they name.
fn blocks(text: &str) -> Vec<(&str, &str)> {
    let after = text.split("\n```rust").skip(1).filter_map(|after| after.split_once('\n'));
    after.map(|(file, rest)| (file.trim(), rest.split("\n```").next().unwrap_or_default())).collect()
}

/// The text without the indentation of its lines.
fn dedented(text: &str) -> String {
    text.lines().map(str::trim_start).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_block_of_the_model_guide_is_the_plugin() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let plugin = root.join("tests/plugins/model");
    let guide = fs::read_to_string(root.join("docs/guide/add-a-model.md")).unwrap();
    let blocks = blocks(&guide);
    for (file, block) in &blocks {
        assert!(!file.is_empty(), "a block of the guide names no file: {block}");
        let own = fs::read_to_string(plugin.join(file)).unwrap_or_default();
        let text =
            dedented(&own) + "\n" + &dedented(&fs::read_to_string(root.join(file)).unwrap_or_default());
        assert!(text.contains(&dedented(block)), "{file} is not what the guide says it is: {block}");
    }
    // The files that a reader has to type are quoted completely.
    let whole = ["examples/checkpoint.rs", "tests/support/mod.rs"].map(str::to_owned);
    let sources = fs::read_dir(plugin.join("src")).unwrap();
    let sources = sources.map(|file| format!("src/{}", file.unwrap().file_name().to_string_lossy()));
    for file in sources.chain(whole) {
        let text = fs::read_to_string(plugin.join(&file)).unwrap();
        assert!(blocks.contains(&(&*file, text.trim_end())), "the guide does not have {file} as a whole");
    }
    // And so are the crates that they depend on.
    let manifest: toml::Table =
        toml::from_str(&fs::read_to_string(plugin.join("Cargo.toml")).unwrap()).unwrap();
    let typed = guide.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let typed: toml::Table = toml::from_str(typed).unwrap();
    for table in ["dependencies", "dev-dependencies"] {
        let names = |of: &toml::Table| of[table].as_table().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&typed), names(&manifest), "{table}");
    }
}

#[test]
fn every_reason_and_field_of_a_trace_is_explained() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("docs/guide/why-was-this-step-skipped.md")).unwrap();
    let row = |word: &str| page.contains(&format!("\n| `{word}` | "));
    for why in Why::ALL {
        assert!(row(why.as_str()), "the page has no row for {:?}", why.as_str());
    }
    let source = fs::read_to_string(root.join("magcache-cli/src/replay/trace.rs")).unwrap();
    let line = source.split("struct Line {").nth(1).and_then(|rest| rest.split("\n}").next()).unwrap();
    let fields: Vec<&str> = line.split("pub(crate) ").skip(1).filter_map(|f| f.split(':').next()).collect();
    assert!(fields.len() > 15, "{fields:?}");
    for field in fields {
        assert!(
            page.contains(&format!("| `{field}`")) || page.contains(&format!(", `{field}` | ")),
            "{field}"
        );
    }
}
