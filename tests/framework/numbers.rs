//! Decisions that any implementation must make on the published curves, with the profiles that ship.

use magcache_strategies::magcache::{Dialect, MagCache};

use crate::prelude::*;

/// Threshold, cap and retention.
type Setting = (f64, usize, f64);

/// The three settings for which the Wan2.1 numbers are recorded.
const WAN: [Setting; 3] = [(0.12, 2, 0.2), (0.12, 4, 0.2), (0.24, 6, 0.2)];

fn published(profile: &str, setting: Setting, dialect: Option<Dialect>) -> MagCache {
    let profile = Profile::find(profile).unwrap();
    let curves: Vec<_> = profile.curves_of(None).unwrap().into_iter().cloned().collect();
    let own = curves[0].dialect.as_deref().map_or(Dialect::Magcache, |d| Dialect::parse(d).unwrap());
    rule(dialect.unwrap_or(own), setting, curves)
}

fn skipped(rule: &MagCache, phases: &[Phase], branch: Branch) -> Vec<usize> {
    rule.schedule(phases, branch).iter().enumerate().filter(|(_, skip)| **skip).map(|(i, _)| i).collect()
}

fn count(rule: &MagCache, steps: usize) -> usize {
    skipped(rule, &[Phase::whole(steps)], Branch::Cond).len()
}

#[test]
fn wan21_text_to_video_at_every_listed_number_of_steps() {
    let expected = [(50, [25, 29, 32]), (40, [20, 23, 26]), (25, [13, 14, 16]), (20, [10, 11, 13])];
    for profile in ["wan2.1-t2v-1.3b", "wan2.1-t2v-14b"] {
        for (steps, counts) in expected {
            let found = WAN.map(|s| count(&published(profile, s, None), steps));
            assert_eq!(found, counts, "{profile}, {steps} steps");
        }
    }
}

#[test]
fn wan21_image_to_video_at_its_native_40_steps() {
    assert_eq!(WAN.map(|s| count(&published("wan2.1-i2v-480p", s, None), 40)), [21, 23, 25]);
    assert_eq!(WAN.map(|s| count(&published("wan2.1-i2v-720p", s, None), 40)), [20, 23, 26]);
}

/// Profile, setting, high-noise steps of 40, and the skipped steps.
const WAN22: [(&str, Setting, usize, &[usize]); 2] = [
    (
        "wan2.2-t2v-a14b",
        (0.04, 2, 0.2),
        26,
        &[5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 23, 24, 28, 29, 31, 33],
    ),
    ("wan2.2-i2v-a14b", (0.06, 2, 0.2), 15, &[3, 4, 6, 7, 9, 10, 12, 13, 20, 21, 23, 24, 26, 27, 29, 31, 33]),
];

#[test]
fn wan22_skips_18_and_17_of_40_by_the_rule_and_through_the_real_hooks() {
    for (profile, setting, high, expected) in WAN22 {
        let (threshold, max_skips, warmup) = setting;
        let keys = format!("threshold = {threshold}\nmax_skips = {max_skips}\nwarmup = {warmup}");
        let table = format!("[[cache]]\nstrategy = 'magcache'\nprofile = '{profile}'\n{keys}");
        let model = simple("toy", 2);
        let run = guided(40).with_phases(phases(&[high, 40 - high]));
        let log = simulate(&build(&table, &model, &run).unwrap().registry, &model, &run).unwrap();
        for branch in BOTH {
            assert_eq!(
                skipped(&published(profile, setting, None), &run.phases, branch),
                expected,
                "{profile}"
            );
            assert_eq!(log.reused(HookId(0), branch).collect::<Vec<_>>(), expected, "{profile} {branch}");
        }
        // The default settings of the profile are the published ones.
        let first = &Profile::find(profile).unwrap().curves[0].recommended[0];
        assert_eq!((first.threshold, first.max_skips, first.warmup), (threshold, max_skips, warmup));
    }
    let official = |i: usize, dialect| {
        let (profile, setting, high, _) = WAN22[i];
        let rule = published(profile, setting, Some(dialect));
        skipped(&rule, &phases(&[high, 40 - high]), Branch::Cond).len()
    };
    assert_eq!(official(0, Dialect::OfficialWan22T2v), 17);
    assert_eq!(official(1, Dialect::OfficialWan22I2v), 9);
}

#[test]
fn flux_in_both_readings() {
    let setting = (0.24, 5, 0.1);
    assert_eq!(count(&published("flux.1-dev", setting, None), 28), 19);
    assert_eq!(count(&published("flux.1-dev", setting, Some(Dialect::Diffusers)), 28), 20);
    assert_eq!(count(&published("flux.1-dev", (0.06, 3, 0.2), Some(Dialect::Diffusers)), 28), 14);
}
