//! What a run needs against what it may have, and what is fetched of blocks that are not in memory.

use serde_json::Value;

use crate::program::{Shell, list};

#[test]
fn a_run_that_needs_more_than_it_may_have_is_refused_by_every_command_that_runs_one() {
    let sh = Shell::new();
    let plan = sh.answer("run --cache magcache --dry-run --memory 1MB");
    assert_eq!(plan["memory"]["available"], 1_000_000);
    assert_eq!(plan["memory"]["fits"], false);
    let most =
        list(&plan["memory"]["phases"]).iter().max_by_key(|phase| phase["bytes"].as_u64()).unwrap().clone();
    let small = ["needs", "--memory allows 976.56 KiB", most["name"].as_str().unwrap()];
    for command in [
        "run --cache magcache",
        "compare --steps 2 --cache fbcache",
        "calibrate --steps 4",
        "pareto --steps 4",
    ] {
        sh.hinted(format!("{command} --memory 1MB"), small);
    }
    // Exactly what it needs is enough, and one byte less is not.
    let need = most["bytes"].as_u64().unwrap();
    let run = "run --cache magcache --steps 2 --frames 1 --memory";
    let of_one = sh.answer("run --cache magcache --steps 2 --frames 1 --dry-run");
    let phases = list(&of_one["memory"]["phases"]);
    let own = phases.iter().map(|phase| phase["bytes"].as_u64().unwrap()).max().unwrap();
    assert!(own <= need);
    sh.refused(format!("{run} {} --out small.png", own - 1), ["needs"]);
    sh.answer(format!("{run} {own} --out enough.png"));
    sh.answer(format!("{run} unchecked --out unchecked.png"));
    let odd = sh.run("run --memory much");
    let told = String::from_utf8_lossy(&odd.stderr).into_owned();
    assert!(odd.status.code() == Some(2) && told.contains("is not a size"), "{told}");
}

#[test]
fn caches_count() {
    let sh = Shell::new();
    let bytes = |cache: &str| {
        let plan = sh.answer(format!("run --cache {cache} --dry-run"));
        list(&plan["memory"]["phases"])[1]["caches"].as_u64().unwrap()
    };
    assert!(bytes("none") == 0 && bytes("magcache") > 0, "{} {}", bytes("none"), bytes("magcache"));
}

#[test]
fn no_embedded_model_is_refused_where_there_is_a_gigabyte() {
    let sh = Shell::new();
    let models = sh.answer("list")["models"].clone();
    let names = list(&models).iter().filter_map(|model| model["name"].as_str());
    let names: Vec<&str> = names.filter(|name| name.contains("tiny")).collect();
    assert!(names.len() >= 5, "{names:?}");
    for name in names {
        let plan = sh.answer(format!("run --model {name} --dry-run --memory 1GB"));
        assert_eq!(plan["memory"]["fits"], true, "{name}: {}", plan["memory"]);
    }
}

#[test]
fn a_voice_is_counted_and_the_network_stays_between_clips() {
    let sh = Shell::new();
    let phases = |clips: usize| {
        let run = format!("run --model wan2.2-s2v-tiny --clips {clips} --dry-run");
        let phases = sh.answer(run)["memory"]["phases"].clone();
        move |name: &str| {
            let own = list(&phases).iter().find(|phase| phase["name"] == name).unwrap();
            ["weights", "activations"].map(|key| own[key].as_u64().unwrap())
        }
    };
    let (one, two) = (phases(1), phases(2));
    let ([weights, activations], [network, _]) = (one("speech encoder"), one("transformer"));
    assert!(weights > 0 && activations > 0);
    assert_eq!(two("autoencoder")[0], one("autoencoder")[0] + network);
    assert!(two("transformer")[1] > one("transformer")[1], "the second clip sees the end of the first");
    sh.hinted("run --model wan2.2-s2v-tiny --memory 1MB", ["needs", "--memory allows"]);
}

/// Bytes fetched by each step.
fn fetched(report: &Value) -> Vec<u64> {
    list(&report["fetched"]["steps"]).iter().map(|step| step["bytes"].as_u64().unwrap()).collect()
}

#[test]
fn a_step_that_is_skipped_fetches_no_block() {
    let sh = Shell::new();
    let run = "run --steps 6 --frames 1 --guidance 1";
    sh.write("skips.toml", "[[cache]]\nstrategy = \"schedule\"\nskip = [2, 3, 5]\n");
    assert!(sh.answer(format!("{run} --config skips.toml --out memory.png"))["fetched"].is_null());
    let report = sh.answer(format!("{run} --config skips.toml --offload blocks --out disk.png"));
    assert!(sh.same("memory.png", "disk.png"));
    let bytes = fetched(&report);
    let [first, computed, ..] = bytes[..] else { panic!("{bytes:?}") };
    // What the first step fetched ahead is there for the second; a skipped one fetches nothing, and the one
    // after it finds its first block there.
    assert!(computed > 0 && first > computed, "{bytes:?}");
    assert_eq!(bytes[1..], [computed, 0, 0, computed, 0], "{report}");
    let blocks = report["fetched"]["blocks"].as_u64().unwrap();
    let own =
        list(&report["fetched"]["steps"]).iter().map(|step| step["blocks"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(blocks, own);
    let [text, _] = sh.said(format!("{run} --config skips.toml --offload blocks --out said.png"));
    assert!(text.contains("3 of 6 steps fetched none"), "{text}");
    let dense = sh.answer(format!("{run} --offload blocks --out dense.png"));
    assert!(fetched(&dense).iter().all(|bytes| *bytes > 0), "{dense}");
}
