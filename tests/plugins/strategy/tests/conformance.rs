//! Runs the core crate's conformance kit on this strategy.

use magcache_core::{Branch, CachePlan, ModelMeta, StackMeta, Trajectory, testing};

#[test]
fn interval_keeps_every_rule() {
    magcache_plugin_interval::link();
    testing::conformance_of("interval");
}

#[test]
fn it_decides_without_tensors() {
    const META: ModelMeta = ModelMeta::of("mine", "me").stacks(&[StackMeta::image("blocks", 4)]).meta();
    magcache_plugin_interval::link();
    let (plan, run) =
        ("[[cache]]\nstrategy = \"interval\"\nevery = 3", Trajectory::plain(7, &[Branch::Cond]));
    let plan = CachePlan::parse(plan).unwrap();
    let ahead = plan.decisions(&META, Some(&run), &[]).unwrap().decisions.ahead(&run);
    let computed: Vec<usize> = ahead
        .iter()
        .filter(|pass| pass.computed.as_slice() == std::slice::from_ref(&(0..4)))
        .map(|pass| pass.step)
        .collect();
    assert_eq!(computed, [0, 3, 6]);
}

#[test]
fn its_keys_are_in_the_reference() {
    magcache_plugin_interval::link();
    let known = magcache_core::meta::strategies();
    let keys = (known.iter().find(|s| s.name == "interval").unwrap().keys)().keys;
    let [every] = keys.as_slice() else { panic!("{keys:?}") };
    assert_eq!(every.target, Some([1.0, 16.0]));
    assert_eq!((every.name.as_str(), every.kind.as_str()), ("every", "whole number"));
    assert_eq!(
        (every.range.as_deref(), every.meaning.as_str()),
        (
            Some("at least 1"),
            "Compute the first of so many steps. Without it, as many as the profile says, else 3."
        )
    );
}
