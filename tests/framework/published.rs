//! Settings that were published for a model: profiles have them with their sources, and strategies take them.

use magcache_core::profile::OwnPart;
use magcache_strategies::meancache::PUBLISHED;
use serde_json::{Map, Value};

use crate::prelude::*;

/// What was collected: strategy, id, facts.
fn facts() -> Vec<(String, String, Map<String, Value>)> {
    let constants: Value = serde_json::from_str(include_str!("../reference/constants.json")).unwrap();
    let object = |value: &Value| value.as_object().unwrap().clone();
    let of = |(strategy, all): (String, Value)| {
        object(&all).into_iter().map(move |(id, facts)| (strategy.clone(), id, object(&facts)))
    };
    object(&constants["settings"]).into_iter().flat_map(of).collect()
}

/// The parts of this strategy in every profile, with the profiles' names.
fn parts(strategy: &str) -> Vec<(&'static str, OwnPart)> {
    let of = |info: &&'static meta::ProfileInfo| {
        let profile = Profile::parse(info.toml, info.name).unwrap();
        let own = profile.parts.get(strategy).cloned().unwrap_or_default();
        own.into_iter().map(|part| (info.name, part))
    };
    meta::profiles().iter().flat_map(of).collect()
}

#[test]
fn profiles_have_what_was_found_and_say_where() {
    let facts = facts();
    assert_eq!(facts.len(), 29);
    for (strategy, id, mut facts) in facts {
        let all = parts(&strategy);
        let own: Vec<_> = all.iter().filter(|(_, part)| part.source.id.as_deref() == Some(&id)).collect();
        assert!(!own.is_empty(), "no profile has {id} of {strategy}");
        let (source, notes) = (facts.remove("source").unwrap(), facts.remove("notes").unwrap());
        for (profile, part) in own {
            let keys = serde_json::to_value(&part.keys).unwrap();
            assert_eq!(keys, Value::Object(facts.clone()), "{profile}");
            assert_eq!(serde_json::to_value(&part.source.notes).unwrap(), notes, "{profile}");
            assert_eq!(part.source.repository.as_deref(), source["repo"].as_str(), "{profile}");
            assert_eq!(part.source.commit.as_deref(), source["commit"].as_str(), "{profile}");
            assert!(part.source.file.as_ref().unwrap().starts_with(source["path"].as_str().unwrap()));
        }
    }
    // Every schedule that is published belongs to a model.
    let tables =
        parts("meancache").into_iter().filter_map(|(_, part)| part.keys["tables"].as_array().cloned());
    let tables: BTreeSet<String> = tables.flatten().map(|name| name.as_str().unwrap().to_owned()).collect();
    assert_eq!(tables, PUBLISHED.iter().map(|table| table.name.to_owned()).collect());
}

/// The threshold that a table has for a model in the middle of a run, and what it builds.
fn resolved(model: &str, table: &str) -> (Option<f64>, String) {
    let model = meta::model(model).unwrap();
    let run = Trajectory::plain(50, &[Branch::Cond]);
    let built = build(&format!("[[cache]]\n{table}\n"), model, &run).unwrap();
    let step = run.steps().nth(25).unwrap();
    (built.registry.threshold(HookId(0), &step), format!("{:?}", built.registry))
}

#[test]
fn a_strategy_takes_what_is_published_for_its_model() {
    for (model, table, threshold, built) in [
        ("wan2.1-t2v", "strategy = 'seacache'", 0.25, "dialect: Diffusers"),
        ("wan2.1-t2v", "strategy = 'seacache'\nvariant = 'official'", 0.2, "dialect: Official"),
        ("wan2.1-t2v", "strategy = 'seacache'\ndialect = 'official'", 0.2, "dialect: Official"),
        ("wan2.1-i2v-14b", "strategy = 'seacache'", 0.2, "dialect: Official"),
        ("flux.1-dev", "strategy = 'seacache'", 0.3, "dialect: Official"),
        // A threshold of another dialect says nothing about this one.
        ("flux.1-dev", "strategy = 'seacache'\ndialect = 'diffusers'", 0.25, "dialect: Diffusers"),
        ("flux.1-dev", "strategy = 'seacache'\nthreshold = 0.7", 0.7, "dialect: Official"),
        ("wan2.2-t2v-a14b", "strategy = 'seacache'", 0.25, "dialect: Diffusers"),
        ("wan2.1-t2v", "strategy = 'seacache'\nprofile = 'hunyuan-video-720p'", 0.2, "dialect: Filtered"),
        ("wan2.1-t2v", "strategy = 'dicache'", 0.08, "dialect: Steps, retention: 0.2"),
        ("flux.1-dev", "strategy = 'dicache'", 0.4, "error: DeltaY, dialect: Flux, retention: 0.2"),
        (
            "flux.1-dev",
            "strategy = 'dicache'\nvariant = 'delta-minus'",
            0.08,
            "error: DeltaMinus, dialect: Flux, retention: 0.0",
        ),
        ("flux.1-dev", "strategy = 'dicache'\nerror = 'delta_minus'", 0.08, "dialect: Flux, retention: 0.0"),
        ("flux.1-dev", "strategy = 'dicache'\nretention = 0.4", 0.4, "dialect: Flux, retention: 0.4"),
        ("flux.2-klein", "strategy = 'dicache'", 0.08, "dialect: Steps, retention: 0.2"),
        ("z-image-turbo", "strategy = 'dbcache'", 0.6, "front: 1, back: 0"),
        ("qwen-image", "strategy = 'dbcache'", 0.08, "front: 8, back: 0"),
        ("qwen-image", "strategy = 'dbcache'\nvariant = 'lightning-4'", 0.8, "front: 16, back: 16"),
        ("qwen-image", "strategy = 'dbcache'\nvariant = 'lightning-4'", 0.8, "max_total_skips: Some(1)"),
        // A threshold of another number of front blocks says nothing about this one.
        ("qwen-image", "strategy = 'dbcache'\nfront = 1", 0.12, "max_skips: Some(3)"),
        ("qwen-image", "strategy = 'dbcache'\nfront = 3", 0.08, "front: 3, back: 0"),
        ("qwen-image", "strategy = 'dbcache'\nback = 2", 0.08, "front: 8, back: 2"),
    ] {
        let (found, text) = resolved(model, table);
        assert_eq!(found, Some(threshold), "{model}: {table}");
        assert!(text.contains(built), "{model}: {table}: {text}");
    }
    let table = "strategy = 'meancache'\nprofile = 'qwen-image'";
    let named = "strategy = 'meancache'\ntable = 'qwen-image-25'";
    assert_eq!(resolved("flux.1-dev", table), resolved("flux.1-dev", named));
    let other = "strategy = 'meancache'\ntable = 'qwen-image-17'";
    assert_ne!(resolved("flux.1-dev", table), resolved("flux.1-dev", other));
    let computed = [0, 1, 3, 7, 14, 21, 28, 35, 42, 49];
    let skip: Vec<usize> = (0..50).filter(|step| !computed.contains(step)).collect();
    let (table, named) =
        ("strategy = 'schedule'\nvariant = 'lemica-fast'", format!("strategy = 'schedule'\nskip = {skip:?}"));
    assert_eq!(resolved("qwen-image", table), resolved("qwen-image", &named));
    assert_ne!(resolved("qwen-image", "strategy = 'schedule'"), resolved("qwen-image", &named));
}

#[test]
fn settings_that_cannot_be_used_are_told() {
    let (model, run) = (meta::model("flux.1-dev").unwrap(), Trajectory::plain(50, &[Branch::Cond]));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("own.toml");
    for (part, table, said) in [
        ("[[part.seacache]]\ndialect = 'official'\nthresholds = [-1.0]", "seacache", "`threshold` is -1"),
        ("[[part.seacache]]\ndialect = 'oficial'\nthresholds = [1.0]", "seacache", "part.seacache"),
        ("[[part.dicache]]\nthresholds = [0.1]\nretention = 2.0", "dicache", "`retention` is 2"),
        ("[[part.dicache]]\nthreshold = 0.1\nretention = 0.2", "dicache", "part.dicache"),
        (
            "[[part.meancache]]\ntables = ['z-image-14']",
            "meancache",
            "\"z-image-14\", which is not published",
        ),
        ("", "meancache", "there is no schedule"),
        ("[[part.dbcache]]\nfront = 1\nthreshold = -1.0", "dbcache", "`threshold` is -1"),
        ("[[part.schedule]]\nsteps = 8\ncomputed = [0]", "schedule", "for runs of 8 steps, the run has 50"),
        ("", "schedule", "no schedule is published"),
    ] {
        std::fs::write(&path, format!("name = 'own'\n{part}\n")).unwrap();
        let profile = path.to_string_lossy();
        let table = format!("[[cache]]\nstrategy = '{table}'\nprofile = '{profile}'\n");
        let error = build(&table, model, &run).unwrap_err();
        let text = magcache_core::hint::told(&error);
        assert!(text.contains(said), "{part}: {text}");
    }
    let unknown = "[[cache]]\nstrategy = 'seacache'\nvariant = 'oficial'\nprofile = 'wan2.1-t2v-1.3b'\n";
    let text = magcache_core::hint::told(&build(unknown, model, &run).unwrap_err());
    assert!(text.contains("unknown part variant \"oficial\""), "{text}");
}
