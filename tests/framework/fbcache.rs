//! FBCache's summed dialect: distances from step to step, added up since the last computed step.

use crate::prelude::*;

/// What the first block adds at each of eight steps: relative changes of 0.1, 0.1, 0.05, 0.2, 0, 0 and 1.
const ADDS: [f64; 8] = [1.0, 1.1, 1.21, 1.2705, 1.5246, 1.5246, 1.5246, 3.0492];

/// The steps that are skipped.
fn skipped(table: &str) -> Vec<usize> {
    let run = alone(8);
    let mut session =
        session(&format!("[[cache]]\nstrategy = \"fbcache\"\n{table}"), &simple("toy", 2), &run);
    for step in run.steps() {
        let add = ADDS[step.index];
        let block = |i: usize, x: Streams| x.map_image(|x| x + [add, 1.0][i]);
        session.pass(&step, Branch::Cond).run(2, &no_signals, ones(2, 3), block).unwrap();
    }
    session.log().records().iter().filter(|record| record.reused).map(|record| record.step).collect()
}

#[test]
fn distances_are_summed_until_a_step_is_computed() {
    // 0.1 and 0.2 are below 0.22, with 0.05 it is not; then 0.2 and twice nothing are, the last step never.
    assert_eq!(skipped("dialect = \"summed\"\nthreshold = 0.22"), [1, 2, 4, 5, 6]);
    // From step to step, not from the last computed one: 0.21 away from step 0, but 0.2 in sum.
    assert_eq!(skipped("dialect = \"summed\"\nthreshold = 0.205"), [1, 2, 4, 5, 6]);
    assert_eq!(skipped("threshold = 0.205")[..2], [1, 3]);
    assert_eq!(skipped("dialect = \"summed\"\nthreshold = 0.04"), [5, 6]);
    assert_eq!(skipped("dialect = \"summed\"\nthreshold = 0.0"), [0; 0]);
}

#[test]
fn a_sum_has_no_mean() {
    let table = "[[cache]]\nstrategy = \"fbcache\"\ndialect = \"summed\"\nema = 0.5";
    let error = CachePlan::parse(table).unwrap().build(&simple("toy", 2), Some(&alone(8))).unwrap_err();
    assert!(error.to_string().contains("`ema` is 0.5"), "{error}");
}
