//! `calibrate --search`, as a user meets it.

use std::fs;

use magcache_core::profile::{PlannedSchedule, Profile};
// Links the built-in profiles into this test binary.
use magcache_models as _;

use crate::program::Shell;

/// An image model that takes almost no time, over eight runs.
const SMALL: &str = "calibrate --model tiny-flux --steps 7 --size 48x32 --prompt 'a red circle' --prompt 'a blue square' \
                     --seeds 0,1,2,3";

/// The profile's schedule of 3 computed steps.
fn third(sh: &Shell, name: &str) -> PlannedSchedule {
    let profile = Profile::find(&sh.path(name).display().to_string()).unwrap();
    profile.plans[0].schedules.iter().find(|own| own.computed == 3).unwrap().clone()
}

#[test]
fn a_search_takes_what_is_better_on_runs_held_back() {
    let sh = Shell::new();
    sh.answer(format!("{SMALL} --out plan.toml"));
    // From a bad plan there is something to find.
    let bad = "--objective minimax --max-gap 2";
    let [said, _] = sh.said(format!("{SMALL} {bad} --search 24 --search-budgets 3 --out found.toml"));
    assert!(said.contains("3 computed: "), "{said}");
    assert!(!sh.path("found.search.jsonl").exists(), "scores are kept no longer than needed");
    let (plan, found) = (third(&sh, "plan.toml"), third(&sh, "found.toml"));
    assert!(found.psnr.is_some() && found.psnr_error.is_some() && plan.psnr.is_none());
    let longest = found.skip.chunk_by(|a, b| a + 1 == *b).map(<[usize]>::len).max().unwrap();
    assert!(longest <= 2, "{:?}", found.skip);
    if let Some(on) = &found.searched {
        assert!(on.scored <= 24 && on.held_back.runs == 2 && on.held_back.gain > 0.0, "{on:?}");
    }
    // The same again is the same.
    sh.said(format!("{SMALL} {bad} --search 24 --search-budgets 3 --out again.toml"));
    assert_eq!(third(&sh, "again.toml"), found);
}

#[test]
fn an_interrupted_search_goes_on() {
    let sh = Shell::new();
    let search = format!("{SMALL} --search 9 --search-budgets 3");
    let [whole, _] = sh.said(format!("{search} --out whole.toml"));
    // No time at all: the profile is there, and the search can go on.
    let [late, _] = sh.said(format!("{search} --search-minutes 0 --out cut.toml"));
    assert!(late.contains("no schedule was scored, the time was over"), "{late}");
    assert_eq!(fs::read_to_string(sh.path("cut.search.jsonl")).unwrap().lines().count(), 1);
    sh.said(format!("{search} --out cut.toml"));
    assert!(!sh.path("cut.search.jsonl").exists());
    assert_eq!(third(&sh, "cut.toml"), third(&sh, "whole.toml"));

    // Known scores are not run again: those of a file that was kept are believed.
    sh.said(format!("{search} --search-minutes 0 --out known.toml"));
    let line = |skip: &str, run: usize, psnr: f64| {
        format!(
            "{{\"with\":\"{}\",\"skip\":{skip},\"run\":{run},\"psnr\":{psnr}}}\n",
            third(&sh, "whole.toml").continuation
        )
    };
    let scores: String = (0..8).map(|run| line("[2,3,5,6]", run, 90.0 + run as f64)).collect();
    sh.write("known.search.jsonl", sh.text("known.search.jsonl") + &scores);
    let [_, told] = sh.said(format!("{search} --out known.toml"));
    assert!(told.contains("8 scores are known"), "{told}");
    assert!(whole.contains("schedules scored"), "{whole}");

    // Scores of another search are neither used nor lost.
    sh.said(format!("{search} --search-minutes 0 --out other.toml"));
    let (profile, scores) = (sh.text("other.toml"), sh.text("other.search.jsonl"));
    sh.hinted(format!("{search} --guidance 2 --out other.toml"), ["other.search.jsonl", "another search"]);
    assert_eq!((sh.text("other.toml"), sh.text("other.search.jsonl")), (profile, scores));
}

#[test]
fn a_searched_schedule_is_for_its_own_options() {
    let sh = Shell::new();
    sh.said(format!("{SMALL} --out p.toml"));
    let text = sh.text("p.toml");
    let of = |computed: usize| format!("computed = {computed}\n");
    assert!(text.contains(&of(3)) && text.contains(&of(4)));
    let found = "\n[plan.schedule.searched]\nscored = 9\nseed = 0\ngain = 1.5\nheld_back = { runs = 2, gain = 0.5, gain_error = 0.25 }\n";
    // After the table of the schedule of 3 steps.
    let start = text.find(&of(3)).unwrap();
    let end = text[start..].find("\n[").map(|at| start + at).unwrap();
    sh.write("p.toml", format!("{}{found}{}", &text[..end], &text[end..]));
    let schedule = "schedule --model tiny-flux --steps 7 --size 48x32 --profile p.toml";
    sh.answer(format!("{schedule} --budget 3"));
    sh.hinted(format!("{schedule} --budget 3 --guidance 2"), ["searched with guidance", "2"]);
    sh.answer(format!("{schedule} --budget 3 --guidance 2 --force"));
    // A planned one is used, and what differs is told.
    sh.answer(format!("{schedule} --budget 4 --guidance 2"));
}

#[test]
fn a_search_that_cannot_be_is_refused_before_anything_is_measured() {
    let sh = Shell::new();
    let few = "calibrate --model tiny-flux --steps 7 --size 48x32 --prompt 'a red circle' --seeds 0,1,2 --out p.toml";
    sh.hinted(format!("{few} --search 5"), ["8 runs", "1 prompts with 3 seeds"]);
    sh.refused(format!("{few} --search-budgets 3"), ["--search"]);
    sh.refused(format!("{SMALL} --objective power:0 --out p.toml"), ["power above 0"]);
    sh.refused(format!("{SMALL} --search 5 --reach 0 --out p.toml"), ["--reach"]);
    sh.refused(format!("{SMALL} --search 5 --search-budgets 7 --out p.toml"), ["--search-budgets", "7"]);
    sh.refused(format!("{SMALL} --search 5 --search-minutes=-1 --out p.toml"), ["--search-minutes"]);
}
