//! Several ranks, as threads: the same bits and decisions as one.

mod branches;
mod faults;
mod models;
mod shards;
mod tokens;

use std::{thread, time::Duration};

use magcache_core::{
    group::{self, ThreadPlane},
    log::Record,
};
use magcache_models::{
    pipeline::{Generation, PipelineError},
    ranks::{Layout, Ranks},
};

use self::models::Model;
use crate::prelude::*;

/// Longer than any step takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// What is left of a run.
#[derive(Debug, PartialEq)]
struct Outcome {
    /// The bits of the last latents.
    latents: Vec<u32>,
    /// Every decision, with its numbers and bytes.
    records: Vec<Record>,
    peak: usize,
    evicted: usize,
}

impl Outcome {
    fn of(run: &Generation) -> Self {
        let values: Vec<f32> = run.latents().flatten_all().unwrap().to_vec1().unwrap();
        let session = run.session();
        Self {
            latents: values.into_iter().map(f32::to_bits).collect(),
            records: session.map_or_else(Vec::new, |s| s.log().records().to_vec()),
            peak: session.map_or(0, |s| s.slots().peak_bytes()),
            evicted: session.map_or(0, |s| s.slots().evicted()),
        }
    }

    fn skips(&self) -> usize {
        self.records.iter().filter(|r| r.reused).count()
    }
}

/// Runs `each` on the ranks of a layout, every one a thread.
fn each_rank<R: Send>(layout: Layout, patience: Duration, each: impl Fn(&Ranks) -> R + Sync) -> Vec<R> {
    let each = &each;
    thread::scope(|scope| {
        let start = |plane: ThreadPlane| {
            scope.spawn(move || each(&Ranks::new(Arc::new(plane), layout, patience).unwrap()))
        };
        let all: Vec<_> = group::threads(layout.ranks()).into_iter().map(start).collect();
        all.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// A whole run of a model with the tables of a plan.
fn run(model: &Model, plan: &str, ranks: Option<&Ranks>) -> Result<Outcome, PipelineError> {
    let mut run = model.begin(plan, ranks)?;
    run.run(&|| false, &mut |_| {})?;
    Ok(Outcome::of(&run))
}

fn ulysses(ulysses: usize) -> Layout {
    Layout { cfg: 1, ulysses }
}

/// Asserts that every rank of a layout ends like a run without ranks.
#[track_caller]
fn assert_as_alone(model: &Model, plan: &str, alone: &Outcome, layout: Layout) {
    for (rank, got) in
        each_rank(layout, PATIENCE, |ranks| run(model, plan, Some(ranks)).unwrap()).iter().enumerate()
    {
        let what = || format!("{}, {layout}, rank {rank}:\n{plan}", model.name);
        for (got, want) in got.records.iter().zip(&alone.records) {
            assert_eq!(got, want, "{}", what());
        }
        assert_eq!(got.records.len(), alone.records.len(), "{}", what());
        assert!(got.latents == alone.latents, "the latents differ: {}", what());
        assert_eq!((got.peak, got.evicted), (alone.peak, alone.evicted), "{}", what());
    }
}

#[test]
fn a_layout_reads_back_and_a_wrong_one_is_told_why() {
    for text in ["ulysses=4", "cfg=2", "cfg=2,ulysses=4"] {
        assert_eq!(text.parse::<Layout>().unwrap().to_string(), text);
    }
    for (text, why) in [
        ("cfg=3", "is more than the two branches of guidance"),
        ("ulysses=0", "is no rank at all"),
        ("ring=2", "is neither `cfg` nor `ulysses`"),
        ("ulysses=2,ulysses=2", "is named twice"),
        ("4", "is not NAME=N"),
        ("cfg=two", "has no number"),
    ] {
        let error = text.parse::<Layout>().unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    let few = group::threads(3).pop().unwrap();
    let error = Ranks::new(Arc::new(few), "cfg=2".parse().unwrap(), PATIENCE).unwrap_err().to_string();
    assert_eq!(error, "cfg=2 needs 2 ranks, there are 3");
}
