//! DiCache's forecast: as far along the line as what the first blocks add has moved, with any strategy.

use crate::prelude::*;

/// What the first block and the second one add at each step.
const PROBE: [f64; 6] = [1.0, 2.0, 3.5, 9.0, 1.2, 2.0];
const TAIL: [f64; 6] = [4.0, 6.0, 0.0, 0.0, 0.0, 0.0];

/// The outputs of a run that skips all steps but the first two, without the input of 10 times the step, and
/// how often each block ran.
fn skipping(forecast: &str, probe: [f64; 6]) -> (Vec<f64>, [usize; 2]) {
    let table = format!("[[cache]]\nstrategy = \"schedule\"\nskip = [2, 3, 4, 5]\nforecast = {forecast}\n");
    let run = alone(6);
    let mut session = session(&table, &simple("toy", 2), &run);
    let ran = std::cell::RefCell::new([0; 2]);
    let outputs = run.steps().map(|step| {
        let at = step.index;
        let input = 10.0 * at as f64;
        let block = |i: usize, x: Streams| {
            ran.borrow_mut()[i] += 1;
            x.map_image(|x| x + [probe[at], TAIL[at]][i])
        };
        let x = Streams::Image((ones(2, 3).into_image().unwrap() * input).unwrap());
        let y = session.pass(&step, Branch::Cond).run(2, &no_signals, x, block).unwrap();
        values(&y.into_image().unwrap())[0] - input
    });
    let outputs = outputs.collect();
    (outputs, ran.into_inner())
}

#[test]
fn the_first_block_tells_how_far_the_line_goes() {
    let (outputs, ran) = skipping("{ type = \"dicache\" }", PROBE);
    // From 5 at step 0 to 8 at step 1: 2.5 times as far is capped at 2, 8 times too, 0.2 times counts as 1.
    assert_eq!(outputs, [5.0, 8.0, 11.0, 11.0, 8.0, 8.0]);
    assert_eq!(ran, [6, 2], "the first block runs on every step, for a strategy that needs none");
    let (outputs, _) = skipping("{ type = \"dicache\", cap = 9.0 }", PROBE);
    assert_eq!(outputs, [5.0, 8.0, 12.5, 29.0, 8.0, 8.0]);
}

#[test]
fn a_first_block_that_did_not_move_repeats_the_last_residual() {
    let (outputs, _) = skipping("{ type = \"dicache\" }", [1.0; 6]);
    assert_eq!(outputs, [5.0, 7.0, 7.0, 7.0, 7.0, 7.0]);
    let (outputs, _) = skipping("{ type = \"dicache\" }", [1.0, 1.0, 2.0, 2.0, 2.0, 2.0]);
    assert_eq!(outputs[2..], [7.0; 4], "nor does a quotient by 0, which is not finite");
}

#[test]
fn the_other_error_counts_only_what_the_first_block_made_of_a_change() {
    // Input and first block grow in step: what leaves the block changes as much as what enters it.
    let skips = |error: &str| {
        let table = format!(
            "[[cache]]\nstrategy = \"dicache\"\nthreshold = 0.05\nerror = \"{error}\"\nretention = 0.0"
        );
        let run = alone(6);
        let mut session = session(&table, &simple("toy", 2), &run);
        for step in run.steps() {
            let x =
                Streams::Image((ones(2, 3).into_image().unwrap() * 1.2f64.powi(step.index as i32)).unwrap());
            let block = |_: usize, x: Streams| x.map_image(|x| x * 2.0);
            session.pass(&step, Branch::Cond).run(2, &no_signals, x, block).unwrap();
        }
        reused(&session, 0, Branch::Cond)
    };
    assert_eq!(skips("delta_y"), [0; 0]);
    assert_eq!(skips("delta_minus"), [1, 2, 3, 4], "the last step is computed");
}

#[test]
fn places_without_first_blocks_are_refused() {
    let refused = |table: &str, blocks: usize| {
        let plan = CachePlan::parse(&format!("[[cache]]\n{table}")).unwrap();
        plan.build(&simple("toy", blocks), Some(&alone(6))).unwrap_err().to_string()
    };
    let schedule = "strategy = \"schedule\"\nskip = [2]\nforecast = { type = \"dicache\" }";
    let forward = refused(&format!("{schedule}\nat = \"forward\""), 3);
    assert!(forward.contains("it looks at what the first blocks do"), "{forward}");
    let one = refused(schedule, 1);
    assert!(one.contains("it looks at what leaves the first 1 block, the range has 1 block"), "{one}");
    assert!(refused("strategy = \"dicache\"", 1).contains("`probe` is 1, the range has 1 block"));
}
