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

/// A block of a document: its language, the file that it names, and its text.
type Block<'a> = (&'a str, &'a str, &'a str);

/// The blocks of a document.
fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("\n```") {
        let Some((head, body)) = after.split_once('\n') else { break };
        let (language, file) = head.split_once(' ').unwrap_or((head, ""));
        let (block, after) = body.split_once("\n```").unwrap_or((body, ""));
        out.push((language, file.trim(), block));
        rest = after;
    }
    out
}

/// The text without the indentation of its lines.
fn dedented(text: &str) -> String {
    text.lines().map(str::trim_start).collect::<Vec<_>>().join("\n")
}

/// The files that a document has to quote as a whole, so that a reader can type them.
const QUOTING: [(&str, &[&str]); 4] = [
    ("README.md", &[]),
    (
        "docs/guide/add-a-model.md",
        &[
            "tests/plugins/own/plan.toml",
            "tests/plugins/own/src/lib.rs",
            "tests/plugins/own/tests/before/flux.rs",
            "tests/plugins/own/tests/before/sample.rs",
            "tests/plugins/own/tests/before/wan.rs",
            "tests/plugins/own/examples/video.rs",
            "tests/plugins/model/src/decoder.rs",
            "tests/plugins/model/src/denoiser.rs",
            "tests/plugins/model/src/lib.rs",
            "tests/plugins/model/src/model.rs",
            "tests/plugins/model/src/pipeline.rs",
            "tests/plugins/model/src/text.rs",
            "tests/plugins/model/examples/checkpoint.rs",
            "tests/plugins/model/tests/support/mod.rs",
        ],
    ),
    ("docs/guide/without-candle.md", &[]),
    ("docs/guide/add-a-strategy.md", &["tests/plugins/strategy/src/lib.rs"]),
];

#[test]
fn every_block_of_code_is_a_file_or_a_part_of_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |file: &str| fs::read_to_string(root.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    for (document, whole) in QUOTING {
        let text = read(document);
        let blocks = blocks(&text);
        let mut quoted = 0;
        for (language, file, block) in blocks.iter().filter(|(_, file, _)| !file.is_empty()) {
            quoted += 1;
            let own = read(file);
            match *language {
                "diff" => assert_eq!(patched(&read(&before(file)), block), own, "{document}: {file}"),
                _ => assert!(dedented(&own).contains(&dedented(block)), "{document}: {file} is not: {block}"),
            }
        }
        assert!(quoted > 1, "{document} quotes only {quoted} files");
        // What is no file is a mistake, shown as one.
        for (_, _, block) in blocks.iter().filter(|(of, file, _)| *of == "rust" && file.is_empty()) {
            assert!(block.contains("// wrong: "), "{document}: a block names no file: {block}");
        }
        for file in whole {
            let text = read(file);
            let there = blocks.iter().any(|(_, named, block)| named == file && *block == text.trim_end());
            assert!(there, "{document} does not have {file} as a whole");
        }
    }
}

/// The file of a model without caches that becomes `file`.
fn before(file: &str) -> String {
    file.replace("/src/", "/tests/before/")
}

/// `text` with the hunks of a diff applied.
fn patched(text: &str, diff: &str) -> String {
    let mut text = text.to_owned();
    for hunk in diff.split("@@").skip(2).step_by(2) {
        let side = |own: char| {
            let lines = hunk.lines().skip(1).filter(|line| line.is_empty() || line.starts_with([' ', own]));
            lines.map(|line| format!("{}\n", line.get(1..).unwrap_or_default())).collect::<String>()
        };
        let (old, new) = (side('-'), side('+'));
        assert_eq!(text.matches(&old).count(), 1, "not once in the file: {old}");
        text = text.replace(&old, &new);
    }
    text
}

#[test]
fn the_diffs_of_the_model_guide_are_as_short_as_it_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let guide = fs::read_to_string(root.join("docs/guide/add-a-model.md")).unwrap();
    let changed = |hunk: &str| {
        let lines = hunk.lines().filter(|line| line.starts_with('+') && !line.starts_with("+use "));
        lines.count()
    };
    let mut seen = Vec::new();
    for (_, file, diff) in blocks(&guide).iter().filter(|(language, _, _)| *language == "diff") {
        let name = file.rsplit('/').next().unwrap();
        seen.push((name, diff.split("@@").skip(2).step_by(2).map(changed).collect::<Vec<_>>()));
    }
    // The first hunk of each is the import.
    let lines = [("wan.rs", vec![0, 2]), ("sample.rs", vec![0, 5, 4]), ("flux.rs", vec![0, 5])];
    assert_eq!(seen, lines);
    for said in ["`src/wan.rs`, 2 lines", "`src/sample.rs`, 5 lines", "`src/flux.rs`, 5 lines"] {
        assert!(guide.contains(said), "the guide does not say {said:?}");
    }
}

#[test]
fn the_model_guide_depends_on_what_the_plugins_depend_on() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let guide = fs::read_to_string(root.join("docs/guide/add-a-model.md")).unwrap();
    let blocks = blocks(&guide);
    let typed = blocks.iter().filter(|(of, _, block)| *of == "toml" && block.starts_with("[package]"));
    let names = |of: &toml::Table, table: &str| -> Vec<String> {
        of.get(table).and_then(toml::Value::as_table).into_iter().flat_map(|t| t.keys().cloned()).collect()
    };
    let mut checked = Vec::new();
    for (_, _, block) in typed {
        let typed: toml::Table = toml::from_str(block).unwrap();
        let name = typed["package"]["name"].as_str().unwrap();
        let folder = name.trim_start_matches("magcache-plugin-").replace("mini", "model");
        let manifest = root.join("tests/plugins").join(&folder).join("Cargo.toml");
        let manifest: toml::Table = toml::from_str(&fs::read_to_string(manifest).unwrap()).unwrap();
        for table in ["dependencies", "dev-dependencies"] {
            assert_eq!(names(&typed, table), names(&manifest, table), "{name}: {table}");
        }
        checked.push(folder);
    }
    assert_eq!(checked, ["own", "model"]);
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
