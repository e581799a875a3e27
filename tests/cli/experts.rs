//! Two experts, as a user meets them, and the published schedules of such models.

use serde_json::{Value, json};

use crate::program::{Shell, list, skipped};

const T2V: [u64; 18] = [5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 23, 24, 28, 29, 31, 33];
const I2V: [u64; 17] = [3, 4, 6, 7, 9, 10, 12, 13, 20, 21, 23, 24, 26, 27, 29, 31, 33];

/// A published schedule; its skipped steps; steps of the first expert.
const PUBLISHED: [(&str, &[u64], u64); 2] = [
    ("--profile wan2.2-t2v-a14b --flow-shift 12 --boundary 0.875 --set threshold=0.04", &T2V, 26),
    ("--profile wan2.2-i2v-a14b --flow-shift 5 --boundary 0.9 --set threshold=0.06", &I2V, 15),
];

#[test]
fn published_schedules_are_printed_and_obeyed_by_the_embedded_pair() {
    let sh = Shell::new();
    for (published, steps, high) in PUBLISHED {
        let common = format!("{published} --steps 40 --cache magcache --set max_skips=2 --set warmup=0.2");
        let planned = sh.answer(format!("schedule {common}"));
        // The curve was measured on another model.
        let run = "run --model wan2.2-t2v-tiny --frames 1 --size 32x32 --out a.png --force --overwrite";
        let done = sh.answer(format!("{run} {common}"));
        for found in [&planned, &done] {
            assert_eq!(found["skipped"], json!({ "cond": steps, "uncond": steps }), "{published}");
        }
        assert_eq!(planned["experts"][0]["end"], high);
        assert_eq!(planned["ceiling"], done["ceiling"]);
        let passes = list(&done["experts"]).iter().map(|e| e["passes"].as_u64().unwrap());
        assert_eq!((passes.sum::<u64>(), &done["experts"][1]["name"]), (80, &json!("low-noise")));
        let in_high = steps.iter().filter(|step| **step < high).count() as u64;
        let in_low = steps.len() as u64 - in_high;
        for (expert, expected) in
            [("high-noise", [2 * high, 2 * in_high]), ("low-noise", [80 - 2 * high, 2 * in_low])]
        {
            let total = |key: &str| -> u64 {
                let own = list(&done["parts"]).iter().filter(|part| part["expert"] == expert);
                own.map(|part| part[key].as_u64().unwrap()).sum()
            };
            assert_eq!(["steps", "skipped"].map(total), expected, "{expert}");
        }
    }
    // The settings of a profile are those of its publishers.
    let wan = sh.answer("schedule --profile wan2.1-t2v-1.3b --steps 50 --cache magcache");
    assert_eq!(skipped(&wan, "cond").len(), 25);
}

#[test]
fn an_expert_can_wait_on_disk_be_unguided_or_uncached() {
    let sh = Shell::new();
    let pair = "run --model wan2.2-t2v-tiny --steps 8 --frames 5 --size 32x32";
    let run =
        |more: &str| sh.answer(format!("{pair} --cache magcache --set threshold=0.5 --set warmup=1 {more}"));
    let both = run("--out a.gif");
    run("--out b.gif --offload disk");
    assert!(sh.same("a.gif", "b.gif"));

    let steps = |found: &Value| -> Vec<u64> {
        list(&found["parts"]).iter().map(|p| p["steps"].as_u64().unwrap()).collect()
    };
    let high = steps(&both)[0];
    assert_eq!(steps(&both), [high, high, 8 - high, 8 - high]);
    assert_eq!(steps(&run("--guidance-2 1 --out c.gif")), [high, high, 8 - high]);
    let low = run("--set 'experts=[\"low-noise\"]' --out d.gif");
    let skips = skipped(&low, "cond");
    assert!(!skips.is_empty() && skips.iter().all(|step| *step > high), "{skips:?}");
    assert_eq!(low["parts"][0]["computed_because"], json!({ "no-cache": high }));
}

#[test]
fn a_moved_boundary_and_a_few_step_run_are_told_before_they_start() {
    let few = "--steps 4 --flow-shift 5 --guidance 1 --guidance-2 1 --dry-run --force";
    let cache = "--cache magcache --profile wan2.2-t2v-a14b";
    let [_, told] = Shell::new().said(format!("run --model wan2.2-t2v-tiny {cache} {few}"));
    for part in [
        "4 steps: on a few-step run, caching whole steps is known to hurt",
        "measured at flow_shift 12, the run has 5",
        "of 4 steps the first expert runs 3 on the curve's schedule, 2 on this one",
        "profile wan2.2-t2v-a14b is not for this run of magcache: it is of wan2.2-t2v-a14b",
        "its first expert would run 3 of 4 steps, the run's 2",
        "4 steps: 1 of 4 passes will be skipped, cond #.|##",
    ] {
        assert!(told.contains(part), "no {part:?} in {told}");
    }
}
