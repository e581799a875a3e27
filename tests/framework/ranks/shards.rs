//! Weights in shares: gathered block by block, one ahead.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use magcache_core::group::{ControlPlane, GroupError, Lane, Message, ThreadPlane};
use magcache_models::ranks::Layout;

use super::{
    PATIENCE, assert_as_alone, each_rank,
    models::{FLUX, FLUX2, Model, PAIR, SPEECH, TOKENS, WAN},
    run, ulysses,
};
use crate::prelude::*;

/// No cache; one that skips whole passes; ones that look at block 0 or run the ends; modules; both branches.
const PLANS: [&str; 6] = [
    "",
    "[[cache]]\nstrategy = \"schedule\"\nskip = [2, 3, 5, 6]",
    "[[cache]]\nstrategy = \"fbcache\"\nthreshold = 0.4",
    "[[cache]]\nstrategy = \"dbcache\"\nfront = 1\nback = 1\nthreshold = 0.4\nwarmup = 2",
    "[[cache]]\nstrategy = \"teacache\"\npolicy = \"linear\"\nsignal = \"modulated-input\"\nthreshold = 0.4",
    "[audit]\nfraction = 0.5\n[[cache]]\nstrategy = \"schedule\"\nat = \"1..3\"\nskip = [2, 3, 5, 6]",
];

fn shards_are_one(model: &Model, layouts: &[Layout]) {
    for plan in PLANS.into_iter().filter(|plan| model.takes(plan)) {
        let alone = run(model, plan, None).unwrap();
        for layout in layouts {
            assert_as_alone(&model.sharded(), plan, &alone, *layout);
        }
    }
}

#[test]
fn divided_weights_are_whole_ones() {
    let both = Layout { cfg: 2, ulysses: 2 };
    shards_are_one(&WAN, &[ulysses(2), ulysses(3), both]);
    shards_are_one(&TOKENS, &[ulysses(3)]);
    shards_are_one(&FLUX, &[ulysses(2)]);
    shards_are_one(&FLUX2, &[ulysses(3)]);
    shards_are_one(&SPEECH, &[ulysses(2)]);
}

#[test]
fn experts_are_swapped_at_the_boundary() {
    shards_are_one(&PAIR, &[ulysses(2), Layout { cfg: 2, ulysses: 2 }]);
}

#[test]
fn blocks_that_are_read_when_they_run_are_those_in_memory() {
    for model in [WAN, TOKENS, PAIR, FLUX, FLUX2, SPEECH] {
        for plan in PLANS.into_iter().filter(|plan| model.takes(plan)) {
            let [there, read] = [model, model.on_disk()].map(|model| run(&model, plan, None).unwrap());
            assert_eq!(there, read, "{}: {plan}", model.name);
        }
    }
    // Each rank reads for itself.
    let alone = run(&WAN, PLANS[1], None).unwrap();
    assert_as_alone(&WAN.on_disk(), PLANS[1], &alone, ulysses(2));
}

/// Counts the weights that a rank sends.
#[derive(Debug)]
struct Counting {
    plane: ThreadPlane,
    sent: Arc<AtomicUsize>,
}

impl ControlPlane for Counting {
    fn rank(&self) -> usize {
        self.plane.rank()
    }

    fn size(&self) -> usize {
        self.plane.size()
    }

    fn send(&self, to: usize, message: Message) -> Result<(), GroupError> {
        self.sent.fetch_add(usize::from(message.lane == Lane::Weights), Ordering::SeqCst);
        self.plane.send(to, message)
    }

    fn receive(&self, from: usize, lane: Lane, patience: Duration) -> Result<Message, GroupError> {
        self.plane.receive(from, lane, patience)
    }

    fn stop(&self, why: &str) {
        self.plane.stop(why);
    }
}

/// Blocks that are gathered in each step of a run.
fn gathered(plan: &str) -> Vec<usize> {
    use magcache_models::ranks::Ranks;
    let layout = ulysses(2);
    let of_rank = |plane: ThreadPlane| {
        let sent = Arc::new(AtomicUsize::new(0));
        let engine = Counting { plane, sent: Arc::clone(&sent) };
        let ranks = Ranks::new(Arc::new(engine), layout, PATIENCE).unwrap();
        let mut run = WAN.sharded().begin(plan, Some(&ranks)).unwrap();
        let mut steps = Vec::new();
        while !run.is_done() {
            let before = sent.load(Ordering::SeqCst);
            run.step(&|| false).unwrap();
            ranks.settle();
            steps.push(sent.load(Ordering::SeqCst) - before);
        }
        steps
    };
    let of_rank = &of_rank;
    let steps: Vec<Vec<usize>> = std::thread::scope(|scope| {
        let start = |plane| scope.spawn(move || of_rank(plane));
        let all: Vec<_> = magcache_core::group::threads(2).into_iter().map(start).collect();
        all.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    assert_eq!(steps[0], steps[1]);
    steps[0].clone()
}

#[test]
fn a_skipped_block_gathers_nothing_and_the_next_one_that_runs_is_there() {
    let blocks = meta::model("wan2.1-t2v-tiny").unwrap().blocks();
    // Two branches, each with every block; the first block of a pass was fetched after the last one.
    let dense = gathered("");
    assert_eq!(dense[0], 2 * blocks + 1);
    assert!(dense[1..].iter().all(|sent| *sent == 2 * blocks), "{dense:?}");
    let skipping = gathered("[[cache]]\nstrategy = \"schedule\"\nskip = [2, 3, 5, 6]");
    for (step, sent) in skipping.iter().enumerate().skip(1) {
        let skipped = [2, 3, 5, 6].contains(&step);
        assert_eq!(*sent, if skipped { 0 } else { 2 * blocks }, "step {step} of {skipping:?}");
    }
    // Block 0 runs in every pass; the one after it is fetched once, for whoever computes next.
    let but_the_first = format!("at = \"1..{blocks}\"\nskip = [2, 3, 5, 6]");
    let first = gathered(&format!("[[cache]]\nstrategy = \"schedule\"\n{but_the_first}"));
    assert_eq!([first[2], first[3]], [1, 0], "{first:?}");
}

#[test]
fn files_that_differ_in_size_are_found_out() {
    // The tokens of ranks with other networks never meet: their weights do.
    let errors = each_rank(ulysses(2), Duration::from_secs(10), |ranks| {
        let model = if ranks.world().place() == 0 { WAN } else { FLUX };
        let ran = run(&model.sharded(), "", Some(ranks)).err().map(|error| error.to_string());
        ran.inspect(|error| ranks.world().stop(error)).unwrap_or_default()
    });
    assert!(errors.iter().all(|error| !error.is_empty()), "{errors:?}");
}
