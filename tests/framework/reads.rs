//! How often a pass waits for its device: metrics are the only numbers that a cache reads back.

use magcache_core::testing::reads;

use crate::prelude::*;

/// The most reads of a pass that is computed, and of one that is skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Most {
    computed: usize,
    skipped: usize,
}

fn of_session(mut session: Session, toy: &Toy, steps: &Trajectory) -> Most {
    let (mut most, mut passes) = (Most::default(), Most::default());
    for step in steps.steps() {
        for branch in steps.branches_at(&step) {
            let before = reads();
            let ran = run_pass(toy, Some(&mut session), &step, *branch, 1).unwrap();
            let (read, skipped) = (reads() - before, ran.records.iter().any(|record| record.reused));
            let [most, passes] = if skipped {
                [&mut most.skipped, &mut passes.skipped]
            } else {
                [&mut most.computed, &mut passes.computed]
            };
            *most = read.max(*most);
            *passes += 1;
        }
    }
    assert!(passes.skipped > 0 && passes.computed > 0, "{passes:?}");
    most
}

#[test]
fn a_decision_reads_once_and_a_static_one_never() {
    let (toy, steps) = (Toy::image(6), guided(30));
    let mut seen = BTreeMap::new();
    for info in strategies() {
        let built = build(&format!("[[cache]]\n{}", info.example), toy.meta(), &steps).unwrap();
        let is_static = built.registry.is_static();
        let most = of_session(built.registry.session(), &toy, &steps);
        let beyond = match info.name {
            // The rate of a computed step is learned when its output is known.
            "easycache" => Most { computed: 2, skipped: 1 },
            // Its forecast looks at how far the first blocks have moved.
            "dicache" => Most { computed: 1, skipped: 2 },
            // Each of its members measures.
            "priority" => Most { computed: 2, skipped: 2 },
            _ if is_static => Most::default(),
            _ => Most { computed: 1, skipped: 1 },
        };
        seen.insert(info.name, (most, beyond));
    }
    for (name, (most, expected)) in seen {
        assert_eq!(most, expected, "{name}");
    }
}

#[test]
fn forecasts_read_nothing() {
    let (toy, steps) = (Toy::image(4), guided(12));
    for forecast in ["{ type = 'residual' }", "{ type = 'output' }", "{ type = 'taylor', order = 2 }"] {
        let text = format!("[[cache]]\nstrategy = 'schedule'\nskip = [5, 7]\nforecast = {forecast}\n");
        assert_eq!(
            of_session(session(&text, toy.meta(), &steps), &toy, &steps),
            Most::default(),
            "{forecast}"
        );
    }
}
