//! Every registered strategy obeys every rule of the kit, two of them together change nothing where nothing
//! may be skipped, and the decisions on a fixed trajectory stay the same.

use crate::prelude::*;

#[test]
fn every_strategy_keeps_every_rule() {
    assert!(strategies().len() >= 5);
    for info in strategies() {
        testing::conformance(info);
    }
}

#[test]
fn every_pair_that_may_skip_nothing_changes_no_bit() {
    let steps = guided(5);
    for toy in toys() {
        let plain = run(&toy, None, &steps, 1).unwrap();
        for [outer, inner] in pairs() {
            let mut session = chain([outer, inner], |info| info.never, toy.meta(), &steps).session();
            let ran = run(&toy, Some(&mut session), &steps, 1).unwrap();
            assert_same(&ran, &plain, &format!("{} around {}", outer.name, inner.name));
        }
    }
}

#[test]
fn every_pair_of_examples_never_learns_a_guess() {
    // Whatever two caches do together, a pass that ran every block has the bits of a run without caches.
    let (steps, toy) = (guided(12), Toy::image(6));
    let plain = run(&toy, None, &steps, 1).unwrap();
    for [outer, inner] in pairs() {
        let mut session = chain([outer, inner], |info| info.example, toy.meta(), &steps).session();
        for (a, b) in run(&toy, Some(&mut session), &steps, 1).unwrap().iter().zip(&plain) {
            let names = (outer.name, inner.name, a.step.index);
            assert!(!a.is_whole(6) || same_bits(&a.output, &b.output), "{names:?}");
            assert!(a.blocks.iter().all(|b| a.count(b.block) == 1), "{names:?}: a block ran twice");
        }
    }
}

#[test]
fn decisions_on_a_fixed_trajectory() {
    let (steps, toy) = (guided(12), Toy::image(12));
    for info in strategies() {
        let mut session = example(info, &toy, &steps);
        run(&toy, Some(&mut session), &steps, 1).unwrap();
        insta::assert_snapshot!(format!("decisions_of_{}", info.name), transcript(session.log()).join("\n"));
    }
}
