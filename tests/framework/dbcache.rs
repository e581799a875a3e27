//! DBCache against the published rule (vipshop/cache-dit, commit f86744a), reimplemented in a few lines.

use proptest::prelude::*;

use crate::prelude::*;

const STEPS: usize = 30;

/// Settings of the published code; `None` where it uses -1.
#[derive(Clone, Copy, Debug)]
struct Settings {
    threshold: f64,
    warmup: usize,
    total: Option<usize>,
    consecutive: Option<usize>,
}

/// How consecutive skips are counted.
#[derive(Clone, Copy, PartialEq)]
enum Count {
    /// As published: the count grows when a skip follows a skip, and restarts only after it has reached the
    /// cap.
    Published,
    /// A computed step resets it.
    Real,
}

/// Which steps are skipped if the front blocks add `residuals[step]`: the published decision, step by step.
fn published(residuals: &[f32], settings: Settings, count: Count) -> Vec<bool> {
    let mut kept: Option<f32> = None;
    let mut skipped: Vec<usize> = Vec::new();
    let mut row = 0;
    let mut out = Vec::new();
    for (step, now) in residuals.iter().enumerate() {
        let may = if step < settings.warmup || settings.total.is_some_and(|most| skipped.len() >= most) {
            false
        } else if settings.consecutive.is_some_and(|most| row >= most) {
            row = 0;
            false
        } else {
            kept.is_some_and(|kept| {
                f64::from((kept - now).abs()) / f64::from(kept.abs()) < settings.threshold
            })
        };
        if may {
            row = match (skipped.last(), count) {
                (None, _) | (_, Count::Real) => row + 1,
                (Some(last), Count::Published) if step - last == 1 => {
                    if row == 0 {
                        2
                    } else {
                        row + 1
                    }
                }
                (Some(_), Count::Published) => row,
            };
            skipped.push(step);
        } else {
            kept = Some(*now);
            if count == Count::Real {
                row = 0;
            }
        }
        out.push(may);
    }
    out
}

/// Which steps our hooks skip on a model of six blocks, the first two of which together add
/// `residuals[step]`.
fn ours(residuals: &[f32], settings: Settings) -> Vec<bool> {
    let Settings { threshold, warmup, total, consecutive } = settings;
    let cap = |word: &str, n: Option<usize>| n.map_or(String::new(), |n| format!("{word} = {n}\n"));
    let table = format!(
        "[[cache]]\nstrategy = \"dbcache\"\nfront = 2\nback = 1\nthreshold = {threshold:?}\nwarmup = {warmup}\n{}{}",
        cap("max_total_skips", total),
        cap("max_skips", consecutive)
    );
    let run = alone(residuals.len());
    let mut session = session(&table, &simple("toy", 6), &run);
    for (step, residual) in run.steps().zip(residuals) {
        let add = |i: usize, x: Streams| {
            let by = if i < 2 { f64::from(*residual) / 2.0 } else { 1.0 };
            x.map_image(|x| x.affine(1.0, by))
        };
        session
            .pass(&step, Branch::Cond)
            .run(6, &no_signals, ones(1, 1).map(|x| x - 1.0).unwrap(), add)
            .unwrap();
    }
    let skipped: Vec<usize> = reused(&session, 0, Branch::Cond);
    (0..residuals.len()).map(|step| skipped.contains(&step)).collect()
}

fn settings() -> impl Strategy<Value = Settings> {
    let cap = || prop::option::of(1usize..7);
    (0.01f64..0.6, 1usize..10, prop::option::of(0usize..20), cap()).prop_map(
        |(threshold, warmup, total, consecutive)| Settings { threshold, warmup, total, consecutive },
    )
}

/// Residuals that move by a few percent per step and jump now and then; quarters, so that halves add up
/// exactly.
fn residuals() -> impl Strategy<Value = Vec<f32>> {
    let step = prop_oneof![4 => -8i32..9, 1 => -120i32..121];
    prop::collection::vec(step, STEPS).prop_map(|moves| {
        let mut at = 256;
        let next = |by: i32| {
            at = (at + by).clamp(64, 512);
            at as f32 / 4.0
        };
        moves.into_iter().map(next).collect()
    })
}

proptest! {
    #[test]
    fn decisions_are_the_published_ones(residuals in residuals(), settings in settings()) {
        let free = Settings { consecutive: None, ..settings };
        prop_assert_eq!(ours(&residuals, free), published(&residuals, free, Count::Published));
        let skips = ours(&residuals, settings);
        let longest = skips.split(|skip| !skip).map(<[bool]>::len).max().unwrap_or(0);
        prop_assert!(settings.consecutive.is_none_or(|most| longest <= most));
        prop_assert!(settings.total.is_none_or(|most| skips.iter().filter(|skip| **skip).count() <= most));
        prop_assert_eq!(skips, published(&residuals, settings, Count::Real));
    }
}

#[test]
fn the_published_count_of_consecutive_skips_is_not_their_number() {
    let both = |residuals: &[f32], most| {
        let settings = Settings { threshold: 0.1, warmup: 1, total: None, consecutive: Some(most) };
        let digits =
            |skips: Vec<bool>| skips.iter().map(|skip| if *skip { '1' } else { '0' }).collect::<String>();
        [digits(published(residuals, settings, Count::Published)), digits(ours(residuals, settings))]
    };
    // Too early: two skips, a step that the metric computes, and three more skips that a cap of 3 would
    // allow.
    assert_eq!(both(&[4.0, 4.0, 4.0, 8.0, 8.0, 8.0, 8.0, 8.0], 3), ["01101101", "01101110"]);
    // Too late: a skip after a computed step is not counted.
    assert_eq!(both(&[4.0; 8], 1), ["01011011", "01010101"]);
}

#[test]
fn at_the_threshold_it_computes() {
    let settings = Settings { threshold: 0.25, warmup: 1, total: None, consecutive: None };
    assert_eq!(ours(&[4.0, 5.0, 4.0, 6.0], settings), [false, false, true, true]);
    assert_eq!(ours(&[4.0, 5.0, 6.25, 6.0], settings), [false, false, false, true]);
}

#[test]
fn front_and_back_blocks_run_and_the_middle_gives_its_residual() {
    for toy in [Toy::image(7), dual(3, 4)] {
        let table = "[[cache]]\nstrategy = \"dbcache\"\nfront = 2\nback = 2\nthreshold = 9.0\nwarmup = 1";
        let mut session = session(table, toy.meta(), ANY);
        let mut pass =
            |index| run_pass(&toy, Some(&mut session), &Step::plain(index, 8), Branch::Cond, 1).unwrap();
        let (full, skipped) = (pass(0), pass(1));
        let ran: Vec<usize> = skipped.blocks.iter().map(|b| b.block).collect();
        assert_eq!(ran, [0, 1, 5, 6]);
        assert_eq!(skipped.records[0].blocks, 2..5);
        let at = |ran: &Ran, i: usize| ran.blocks.iter().find(|b| b.block == i).unwrap().clone();
        let middle = at(&full, 4).output.sub(&at(&full, 1).output).unwrap();
        let entered = at(&skipped, 5).input.image().unwrap();
        let expected = at(&skipped, 1).output.add(&middle).unwrap().image().unwrap();
        assert!(same_bits(&entered, &expected));
    }
}

#[test]
fn without_words_it_has_the_published_settings() {
    let run = alone(12);
    let mut session = session("[[cache]]\nstrategy = \"dbcache\"", &simple("toy", 9), &run);
    for step in run.steps() {
        let x = ones(1, 1);
        // 0.08 is exceeded at step 10: 7 percent, then 9.
        let by = [1.0, 1.07, 1.09][step.index.saturating_sub(8).min(2)];
        let block = |_, x: Streams| x.map_image(|x| x.affine(1.0, by));
        session.pass(&step, Branch::Cond).run(9, &no_signals, x, block).unwrap();
    }
    let told: Vec<_> =
        session.log().records().iter().skip(7).map(|r| (r.blocks.clone(), r.reused, r.why)).collect();
    let expected = [
        (false, Why::Warmup),
        (true, Why::Under),
        (true, Why::Under),
        (false, Why::Over),
        (true, Why::Under),
    ];
    assert_eq!(told, expected.map(|(reused, why)| (8..9, reused, why)));
}
