//! Settings without effect are reported: the common keys of every table, and the keys of every strategy.

use std::{fs, path::Path};

use magcache_core::{Problem, config::Words, keys::keys_of};

use crate::prelude::*;

/// For each common key that a strategy may leave unread, a value that is never a default.
const WORDS: [&str; 9] = [
    "profile = \"odd\"",
    "variant = \"b\"",
    "warmup = 7",
    "last_steps = 6",
    "max_skips = 5",
    "max_total_skips = 4",
    "branches = \"cond-decides\"",
    "branches = \"own\"",
    "forecast = { type = \"taylor\", order = 3 }",
];

/// A profile without any default value, with two variants of everything.
fn odd(folder: &Path) -> String {
    let variant = |variant: &str, n: usize| {
        format!(
            "[[curve]]\nvariant = {variant:?}\nsteps = 2\nratios = {{ cond = [1.0, 0.{n}] }}\n\
             [[fit]]\nvariant = {variant:?}\nsignal = \"modulated-input\"\ncoefficients = [0.{n}, 0.0]\n\
             warmup = {n}\nlast_steps = {n}\n\
             [[sensitivity]]\nvariant = {variant:?}\ntimesteps = [900.0]\nlatent = [0.{n}]\ntimestep = [0.{n}]\n\
             [[part.dicache]]\nvariant = {variant:?}\nthresholds = [0.{n}]\nretention = 0.{n}\n\
             [[part.meancache]]\nvariant = {variant:?}\ntables = [\"z-image-13\"]\n\
             [[part.seacache]]\nvariant = {variant:?}\nthresholds = [0.{n}]\ndialect = {:?}\n",
            if n == 3 { "official" } else { "filtered" }
        )
    };
    let path = folder.join("odd.toml");
    fs::write(&path, format!("name = \"odd\"\n{}{}", variant("a", 3), variant("b", 4))).unwrap();
    path.to_string_lossy().into_owned()
}

/// The debug text of what a table builds, and the warnings.
fn built(table: &str) -> Result<(String, Vec<Problem>), ConfigError> {
    let model = ModelMeta { signals: Signal::ALL.to_vec().into(), ..simple("toy", 6) };
    let run = guided(12);
    let built = build(&format!("[[cache]]\n{table}\n"), &model, &run)?;
    Ok((format!("{:?}", built.registry), built.warnings))
}

/// The keys that are reported to have no effect.
fn told(problems: &[Problem]) -> Vec<&str> {
    let named = |p: &'_ Problem| p.message.contains("has no effect");
    problems.iter().filter(|p| named(p)).filter_map(|p| p.message.split('`').nth(1)).collect()
}

#[test]
fn a_word_that_changes_nothing_of_a_strategy_is_told_and_no_other() {
    let mut idle = 0;
    let dir = tempfile::tempdir().unwrap();
    let profile = format!("profile = {:?}", odd(dir.path()));
    for StrategyInfo { name, example, .. } in strategies() {
        let (_, warnings) = built(example).unwrap();
        assert!(told(&warnings).is_empty(), "{name}: {warnings:?}");
        let branches = |table: &str| built(table).map(|(text, _)| text);
        for word in WORDS {
            let key = word.split(' ').next().unwrap();
            let word = if key == "profile" { profile.as_str() } else { word };
            let own = if key == "variant" { profile.as_str() } else { "" };
            let base = format!("{}\n{own}", without(example, key));
            let Ok((plain, _)) = built(&base) else { continue };
            let table = format!("{base}\n{word}");
            // Keys that are wrong here are reported in any case.
            let Ok((text, warnings)) = built(&table) else { continue };
            let mut same = text == plain;
            if key == "branches" {
                // One of the two is the default.
                let ways = ["own", "cond-decides"]
                    .map(|way| branches(&table.replace(word, &format!("branches = {way:?}"))));
                same = matches!(ways, [Ok(a), Ok(b)] if a == b);
            }
            let told = told(&warnings).contains(&key);
            assert!(told || !same, "{name}: `{word}` changes nothing and nobody says so");
            assert!(!told || same, "{name}: `{word}` is said to have no effect and changes what is built");
            idle += usize::from(told);
        }
    }
    assert!(idle > 8, "only {idle} words of all strategies were found to be without effect");
}

/// An example without the lines that set a key.
fn without(table: &str, key: &str) -> String {
    let other = |line: &&str| !line.trim().starts_with(&format!("{key} ="));
    table.lines().filter(other).map(|line| format!("{line}\n")).collect()
}

#[test]
fn keys_that_another_one_silences_are_told() {
    let cases: [(&str, &[&str]); 8] = [
        ("strategy = \"seacache\"\nprofile = \"wan2.2-t2v-a14b\"", &["profile"]),
        (
            "strategy = \"seacache\"\nthreshold = 0.3\ndialect = \"diffusers\"\nprofile = \"flux.1-dev\"",
            &["profile"],
        ),
        ("strategy = \"schedule\"\nskip = [3]\nprofile = \"wan2.1-t2v-1.3b\"", &["profile"]),
        ("strategy = \"fbcache\"\nvariant = \"nonsense\"", &["variant"]),
        (
            "strategy = \"magcache\"\nratios = [1.0, 0.99]\nvariant = \"t2v\"\nprofile = \"wan2.1-t2v-1.3b\"",
            &["profile", "variant"],
        ),
        (
            "strategy = \"teacache\"\npolicy = \"linear\"\ncoefficients = [2.0, 0.0]\nfitted_range = [0.0, 1.0]",
            &["coefficients", "fitted_range"],
        ),
        ("strategy = \"fbcache\"\nforecast = { type = \"taylor\", dialect = \"diffusers\" }", &["dialect"]),
        ("strategy = \"fbcache\"\nforecast = { type = \"taylor\", dialect = \"diffusers\", order = 2 }", &[]),
    ];
    for (table, expected) in cases {
        let (_, warnings) = built(table).unwrap();
        let mut told = told(&warnings);
        told.sort_unstable();
        assert_eq!(told, expected, "{table}: {warnings:?}");
        assert!(warnings.iter().filter(|p| p.message.contains("no effect")).all(|p| p.hint.is_some()));
    }
    // Also in a member of a combination.
    let member = "{ strategy = \"teacache\", policy = \"linear\", coefficients = [2.0, 0.0] }";
    let (_, warnings) =
        built(&format!("strategy = \"priority\"\nmembers = [{{ strategy = \"fbcache\" }}, {member}]"))
            .unwrap();
    assert_eq!(told(&warnings), ["coefficients"]);
}

#[test]
fn a_list_for_a_branch_that_does_not_exist_is_refused() {
    let tables = [
        "strategy = \"schedule\"\nskip = { conf = [3] }",
        "strategy = \"magcache\"\nratios = { cond = [1.0, 0.9], unconditional = [1.0, 0.9] }",
    ];
    for table in tables {
        let error = built(table).unwrap_err();
        assert!(error.to_string().contains("a branch is `cond`, `uncond`, `batched` or `otherN`"), "{error}");
        assert!(error.hint().unwrap().starts_with("did you mean `"), "{error:?}");
    }
}

#[test]
fn the_words_are_those_that_the_type_reads() {
    let keys: Vec<String> = keys_of::<Words>().keys.into_iter().map(|key| key.name).collect();
    for word in keys.iter().filter(|word| !["at", "experts"].contains(&word.as_str())) {
        assert!(WORDS.iter().any(|line| line.starts_with(&format!("{word} = "))), "{word} is not tried");
    }
    assert_eq!(keys.len(), 10);
}

#[test]
fn every_range_that_a_key_states_is_kept() {
    let mut tried = 0;
    for info in strategies().into_iter().filter(|info| info.level != Level::Modules) {
        let keys = (info.keys)().keys;
        let numbers = keys.iter().filter(|key| ["number", "whole number"].contains(&key.kind.as_str()));
        for key in numbers.filter(|key| !key.name.contains('.')) {
            for outside in outside(key.range.as_deref().unwrap_or_default(), key.kind == "number") {
                let table = format!("{}\n{} = {outside}", without(info.example, &key.name), key.name);
                let place = format!("{}: {} = {outside}, said to be {:?}", info.name, key.name, key.range);
                let error = built(&table).err().unwrap_or_else(|| panic!("{place}")).to_string();
                // A negative number where only whole numbers are allowed is refused by the reader, which does
                // not name the key.
                let told = error.contains(&key.name) || error.contains("a whole number, at least 0");
                assert!(told, "{place}: {error}");
                tried += 1;
            }
        }
    }
    assert!(tried > 12, "only {tried}");
}

/// Values just outside a stated range.
fn outside(range: &str, fraction: bool) -> Vec<String> {
    let value = |number: f64| if fraction { format!("{number:?}") } else { format!("{number:.0}") };
    let step = if fraction { 0.25 } else { 1.0 };
    let number = |text: &str| text.parse::<f64>().unwrap();
    if let Some((low, high)) = range.split_once(" to ") {
        return vec![value(number(low) - step), value(number(high) + step)];
    }
    let each = |bound: &str| {
        let (word, limit) = bound.rsplit_once(' ')?;
        let limit = number(limit);
        Some(value(match word {
            "at least" => limit - step,
            "at most" => limit + step,
            _ => limit,
        }))
    };
    range.split(", ").filter_map(each).collect()
}

#[test]
fn every_forecast_that_can_be_read_is_in_the_reference() {
    let text = "[[cache]]\nstrategy = \"fbcache\"\nforecast = { type = \"?\" }";
    let error = CachePlan::parse(text).unwrap_err().to_string();
    let (_, known) = error.split_once("expected").unwrap();
    let known = known.lines().next().unwrap();
    let registered: Vec<&str> = meta::forecasts().iter().map(|f| f.name).collect();
    assert!(registered.iter().all(|name| known.contains(name)), "{registered:?}: {known}");
    for name in known.split('`').skip(1).step_by(2).filter(|name| !name.contains("testing")) {
        assert!(registered.contains(&name), "{name} is not in {registered:?}");
    }
}

#[test]
fn words_of_before_are_read() {
    let same = |old: &str, new: &str| assert_eq!(built(old).unwrap().0, built(new).unwrap().0);
    let fbcache = |dialect: &str| format!("strategy = \"fbcache\"\ndialect = {dialect:?}");
    same(&fbcache("magcache"), &fbcache("strict"));
    let taylor = |dialect: &str| {
        format!(
            "strategy = \"fbcache\"\nforecast = {{ type = \"taylor\", order = 2, dialect = {dialect:?} }}"
        )
    };
    same(&taylor("magcache"), &taylor("newton"));
}

#[test]
fn dbcache_without_a_front_leaves_something_to_skip_in_a_small_model() {
    for (blocks, front) in [(2, 1), (3, 1), (6, 3), (8, 4), (9, 8), (40, 8)] {
        let model = simple("toy", blocks);
        let plan = CachePlan::parse("[[cache]]\nstrategy = \"dbcache\"").unwrap();
        let registry = plan.build(&model, None).unwrap().registry;
        assert!(
            format!("{registry:?}").contains(&format!("Window {{ front: {front}, back: 0 }}")),
            "{registry:?}"
        );
    }
}
