//! Every registered strategy obeys every rule of the kit, two of them together change nothing where nothing
//! may be skipped, and the decisions on a fixed trajectory stay the same.

mod support;

use magcache_core::{Branch, HookRegistry, Level, Trajectory, testing};
use support::{cuts_off, example, hook_of, idle_chain, strategies};
use testing::{Toy, run, same_bits, toys, transcript};

#[test]
fn every_strategy_keeps_every_rule() {
    assert!(strategies().len() >= 5);
    for info in strategies() {
        testing::conformance(info);
    }
}

#[test]
fn every_pair_that_may_skip_nothing_changes_no_bit() {
    let steps = Trajectory::plain(5, &[Branch::Cond, Branch::Uncond]);
    for toy in toys() {
        let plain = run(&toy, None, &steps, 1).unwrap();
        for outer in strategies() {
            for inner in strategies().into_iter().filter(|inner| !cuts_off(outer, inner)) {
                let mut session = idle_chain([outer, inner], toy.meta(), &steps).session();
                for (a, b) in run(&toy, Some(&mut session), &steps, 1).unwrap().iter().zip(&plain) {
                    let names = (outer.name, inner.name, toy.blocks(), a.step.index);
                    assert!(same_bits(&a.output, &b.output), "{names:?}");
                }
            }
        }
    }
}

#[test]
fn every_pair_of_examples_never_learns_a_guess() {
    // Whatever two caches do together, a pass that ran every block has the bits of a run without caches.
    let steps = Trajectory::plain(12, &[Branch::Cond, Branch::Uncond]);
    let toy = Toy::image(6);
    let plain = run(&toy, None, &steps, 1).unwrap();
    for outer in strategies() {
        for inner in strategies().into_iter().filter(|inner| !cuts_off(outer, inner)) {
            let mut builder = HookRegistry::builder(6);
            for (id, info) in [(0, outer), (1, inner)] {
                let hook = hook_of(info, info.example, id, toy.meta(), &steps);
                builder = match info.level {
                    Level::Blocks | Level::Modules => builder.ring(0..6, hook).unwrap(),
                    Level::Forward => builder.forward(hook),
                };
            }
            let mut session = builder.build().session();
            for (a, b) in run(&toy, Some(&mut session), &steps, 1).unwrap().iter().zip(&plain) {
                let names = (outer.name, inner.name, a.step.index);
                assert!(!a.is_whole(6) || same_bits(&a.output, &b.output), "{names:?}");
                assert!(a.blocks.iter().all(|b| a.count(b.block) == 1), "{names:?}: a block ran twice");
            }
        }
    }
}

#[test]
fn decisions_on_a_fixed_trajectory() {
    let steps = Trajectory::plain(12, &[Branch::Cond, Branch::Uncond]);
    let toy = Toy::image(12);
    for info in strategies() {
        let mut session = example(info, &toy, &steps);
        run(&toy, Some(&mut session), &steps, 1).unwrap();
        insta::assert_snapshot!(format!("decisions_of_{}", info.name), transcript(session.log()).join("\n"));
    }
}
