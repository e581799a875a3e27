//! The text that skipped blocks would have changed is stored only if something after them reads it.

use proptest::{collection::vec, prelude::*};

use crate::prelude::*;

/// A ring: its range, the numbers of front and back blocks that always run, and the steps that it replaces.
type Nested = (Range<usize>, (usize, usize), Vec<usize>);

/// Runs `toy` with rings, outermost first; `lean` leaves out the text that nothing reads.
fn outputs(toy: &Toy, rings: &[Nested], lean: bool) -> Vec<Ran> {
    let mut builder = HookRegistry::builder(toy.blocks());
    for (id, (at, (front, back), skip)) in (0..).zip(rings) {
        let hook = Script::at(skip.iter().copied()).window(*front, *back).hook(id);
        builder = builder.ring(at.clone(), hook).unwrap();
    }
    let builder = if lean { builder.text_ends() } else { builder };
    run(toy, Some(&mut builder.build().session()), &alone(7), 1).unwrap()
}

#[test]
fn plans_leave_out_the_text_after_the_last_block_alone() {
    let toy = dual(2, 4);
    let steps = alone(6);
    let bytes = |at: &str| {
        let text = format!("[[cache]]\nstrategy = 'schedule'\nskip = [2, 3]\nat = '{at}'");
        let mut session = session(&text, toy.meta(), &steps);
        run(&toy, Some(&mut session), &steps, 1).unwrap();
        session.slots().bytes()
    };
    // Six image tokens and three text tokens, of eight channels.
    assert_eq!([bytes("2..6"), bytes("joint"), bytes("2..5")], [6 * 8 * 4, 6 * 8 * 4, 9 * 8 * 4]);
}

fn rings() -> impl Strategy<Value = Vec<Nested>> {
    let range = (0usize..6, 1usize..7).prop_map(|(start, len)| start..(start + len).min(6));
    vec((range, (0usize..4, 0usize..4), vec(1usize..7, 0..4)), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_left_out_is_read_by_nobody(rings in rings(), separate in 0usize..7) {
        let toy = dual(separate, 6 - separate);
        let (lean, whole) = (outputs(&toy, &rings, true), outputs(&toy, &rings, false));
        assert_same(&lean, &whole, &format!("{rings:?}"));
        prop_assert!(lean.iter().zip(&whole).all(|(a, b)| a.blocks.len() == b.blocks.len()));
    }
}
