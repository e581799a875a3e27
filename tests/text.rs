//! The text that skipped blocks would have changed is stored only if something after them reads it.

mod support;

use std::{ops::Range, sync::Arc};

use magcache_core::{
    Branch, CachePlan, Guards, HookRegistry, Role, Trajectory,
    forecast::ResidualConfig,
    testing::{Ran, Toy, run, same_bits},
};
use proptest::{collection::vec, prelude::*};
use support::Script;

/// A ring: its range, the numbers of front and back blocks that always run, and the steps that it replaces.
type Nested = (Range<usize>, (usize, usize), Vec<usize>);

/// Runs `toy` with rings, outermost first; `lean` leaves out the text that nothing reads.
fn outputs(toy: &Toy, rings: &[Nested], lean: bool) -> Vec<Ran> {
    let mut builder = HookRegistry::builder(toy.blocks());
    for (id, (at, (front, back), skip)) in (0..).zip(rings) {
        let script = Script::at(skip.iter().copied()).window(*front, *back);
        let hook = script.hook_with(id, Arc::new(ResidualConfig {}), Guards::default());
        builder = builder.ring(at.clone(), hook).unwrap();
    }
    let builder = if lean { builder.text_ends() } else { builder };
    run(toy, Some(&mut builder.build().session()), &Trajectory::plain(7, &[Branch::Cond]), 1).unwrap()
}

fn assert_same(rings: &[Nested], toy: &Toy) {
    let (lean, whole) = (outputs(toy, rings, true), outputs(toy, rings, false));
    for (a, b) in lean.iter().zip(&whole) {
        assert!(same_bits(&a.output, &b.output), "step {}, {rings:?}", a.step.index);
        assert_eq!(a.blocks.len(), b.blocks.len());
    }
}

#[test]
fn a_ring_that_an_outer_one_cuts_keeps_the_text_that_its_blocks_read() {
    let toy = Toy::dual_joint(2, 4, [Role::Text, Role::Image]);
    for (front, back) in [(1, 1), (1, 2), (0, 3), (2, 1)] {
        for inner in [0..6, 2..6, 4..6] {
            assert_same(&[(0..6, (front, back), vec![]), (inner, (0, 0), vec![2, 3, 5])], &toy);
        }
    }
    assert_same(&[(3..4, (0, 0), vec![]), (0..6, (0, 0), vec![2, 3, 5])], &toy);
}

#[test]
fn plans_leave_out_the_text_after_the_last_block_alone() {
    magcache_strategies::link();
    let toy = Toy::dual_joint(2, 4, [Role::Text, Role::Image]);
    let steps = Trajectory::plain(6, &[Branch::Cond]);
    let bytes = |at: &str| {
        let text = format!("[[cache]]\nstrategy = \"schedule\"\nskip = [2, 3]\nat = \"{at}\"\n");
        let built = CachePlan::parse(&text).unwrap().build(toy.meta(), Some(&steps)).unwrap();
        let mut session = built.registry.session();
        run(&toy, Some(&mut session), &steps, 1).unwrap();
        session.slots().bytes()
    };
    // Six image tokens and three text tokens, of eight channels.
    assert_eq!([bytes("2..6"), bytes("joint"), bytes("2..5")], [6 * 8 * 4, 6 * 8 * 4, 9 * 8 * 4]);
}

fn rings() -> impl Strategy<Value = Vec<Nested>> {
    let range = (0usize..6, 1usize..7).prop_map(|(start, len)| start..(start + len).min(6));
    vec((range, (0usize..3, 0usize..3), vec(1usize..7, 0..4)), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_left_out_is_read_by_nobody(rings in rings(), dual in 0usize..7) {
        assert_same(&rings, &Toy::dual_joint(dual, 6 - dual, [Role::Text, Role::Image]));
    }
}
