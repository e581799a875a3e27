//! A run of several clips: each begins without a past, whatever the strategy.

use magcache_core::log::Record;

use crate::prelude::*;

/// A guided run of three clips.
fn clips(steps: usize) -> Trajectory {
    Trajectory { clips: 3, ..guided(steps) }
}

/// What was decided in the passes of a clip.
fn decided(session: &Session, run: &Trajectory, clip: usize) -> Vec<Record> {
    let own = |record: &&Record| run.step(record.step).clip == clip;
    let records = session.log().records().iter().filter(own).cloned();
    // Where the clips differ: the place among the steps of all of them.
    records.map(|record| Record { step: record.step - clip * run.len(), ..record }).collect()
}

#[test]
fn a_clip_decides_as_a_run_of_its_own_does() {
    for info in strategies() {
        let toy = dual(2, 3);
        let run_of_three = clips(12);
        let mut three = example(info, &toy, &run_of_three);
        let together = run(&toy, Some(&mut three), &run_of_three, 1).unwrap();
        let mut one = example(info, &toy, &guided(12));
        let alone = run(&toy, Some(&mut one), &guided(12), 1).unwrap();
        let passes = alone.len();
        assert_eq!(together.len(), 3 * passes, "{}", info.name);
        let expected = decided(&one, &guided(12), 0);
        assert!(expected.iter().any(Record::is_skip), "{} skips nothing", info.name);
        for clip in 0..3 {
            for (a, b) in together[clip * passes..].iter().zip(&alone) {
                assert_eq!((a.step.clip, a.step.index, a.branch), (clip, b.step.index, b.branch));
                let at = format!("{}: clip {clip}, step {} {}", info.name, a.step.index, a.branch);
                assert!(same_bits(&a.output, &b.output), "{at}");
            }
            assert_eq!(decided(&three, &run_of_three, clip), expected, "{}: clip {clip}", info.name);
        }
    }
}
