//! Non-finite values, mismatches and changes of shape are detected whatever the dtype, the layout and the
//! other streams.

use candle_core::Result;
use magcache_core::strategy::Base;

use crate::prelude::*;

/// One pass over `blocks` blocks with an input of ones `[1, 2, 3]`; the first output value, and the last
/// decision.
fn pass(
    session: &mut Session,
    blocks: usize,
    index: usize,
    dtype: DType,
    block: impl Fn(usize, Tensor) -> Result<Tensor>,
) -> (f32, Why) {
    let x = Tensor::ones((1, 2, 3), dtype, &Device::Cpu).unwrap();
    let mut pass = session.pass(&Step::plain(index, 8), Branch::Cond);
    let y = pass
        .run(blocks, &no_signals, Streams::Image(x), |i, x| Ok(Streams::Image(block(i, x.into_image()?)?)));
    let y = y.unwrap().into_image().unwrap().to_dtype(DType::F32).unwrap();
    drop(pass);
    (y.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0], session.log().records().last().unwrap().why)
}

#[test]
fn a_residual_that_half_precision_cannot_hold_stays_finite() {
    for (dtype, large) in [(DType::F16, 7e4), (DType::BF16, 3.4e38)] {
        let mut session =
            scripted(1, [1, 2], StoragePolicy { dtype: Some(dtype), ..StoragePolicy::default() });
        for index in 0..3 {
            let (y, _) = pass(&mut session, 1, index, DType::F32, |_, x| x + large);
            assert!((f64::from(y) - large).abs() < large / 200.0, "{dtype:?}, step {index}: {y}");
        }
        assert_eq!(reused(&session, 0, Branch::Cond).len(), 2);
    }
}

#[test]
fn a_broken_output_of_any_dtype_and_layout_is_never_stored() {
    let plain = |x: Tensor, add: f64| x + add;
    let view = |x: Tensor, add: f64| (x.transpose(1, 2)?.contiguous()? + add)?.transpose(1, 2);
    for dtype in [DType::F32, DType::F64, DType::BF16, DType::F16] {
        for block in [plain, view] {
            let mut session = scripted(2, [2, 3], StoragePolicy::default());
            let broken = |i, index| if (i, index) == (1, 1) { f64::NAN } else { 1.0 };
            let ran: Vec<_> = (0..4)
                .map(|index| pass(&mut session, 2, index, dtype, |i, x| block(x, broken(i, index))))
                .collect();
            let why: Vec<Why> = ran.iter().map(|(_, why)| *why).collect();
            assert_eq!(
                why,
                [Why::Warmup, Why::FailsafeNonFinite, Why::NoHistory, Why::Scheduled],
                "{dtype:?}"
            );
            assert!(ran[1].0.is_nan() && ran[2].0 == 3.0 && ran[3].0 == 3.0, "{dtype:?}: {ran:?}");
        }
    }
}

#[test]
fn a_residual_is_not_made_of_an_input_that_is_no_number() {
    let mut session = rings(2, [(1..2, Script::at([2]).hook(0))]).build().session();
    // At step 1 block 0 gives infinity, which block 1 clamps to a finite value.
    for (index, why) in [(0, Why::Warmup), (1, Why::FailsafeNonFinite), (2, Why::NoHistory)] {
        let (y, got) = pass(&mut session, 2, index, DType::F32, |i, x| match i {
            0 if index == 1 => x * f64::INFINITY,
            0 => Ok(x),
            _ => x.clamp(-5.0, 5.0),
        });
        assert!(got == why && y.is_finite(), "step {index}: {y}, {got}");
    }
}

/// Runs `toml` on a model of three blocks in which block 0 fails at step 3 only; returns every decision with
/// its reason.
fn broken_at_3(toml: &str) -> Vec<(bool, Why)> {
    let steps = alone(8);
    let mut session = session(toml, &simple("toy", 3), &steps);
    for index in 0..8 {
        let add = |i| if (i, index) == (0, 3) { f64::NAN } else { 1.0 + 0.1 * index as f64 };
        pass(&mut session, 3, index, DType::F32, |i, x| x + add(i));
    }
    session.log().records().iter().map(|r| (r.reused, r.why)).collect()
}

#[test]
fn a_metric_that_is_no_number_is_not_outvoted() {
    let member = "{ strategy = \"fbcache\", threshold = 0.5 }";
    let other = "{ strategy = \"schedule\", skip = [3, 4, 5, 6] }";
    for strategy in ["priority", "any-veto"] {
        for members in [format!("[{member}, {other}]"), format!("[{other}, {member}]")] {
            let ran = broken_at_3(&format!("[[cache]]\nstrategy = \"{strategy}\"\nmembers = {members}\n"));
            assert_eq!(ran[3], (false, Why::FailsafeNonFinite), "{strategy} of {members}");
            let later = ran[4..].iter().filter(|(_, why)| why.is_failsafe()).count();
            assert_eq!(later, 0, "{strategy} of {members}: {ran:?}");
            assert!(!ran[4].0, "nothing of the broken pass is kept: {ran:?}");
        }
    }
}

#[test]
fn text_that_gets_longer_in_a_sequence_of_the_same_length_is_another_shape() {
    let mut session = around(1, Script::at([1, 2]).hook(0));
    for (index, text, why) in
        [(0, 0..2, Why::Warmup), (1, 0..3, Why::FailsafeShape), (2, 0..3, Why::Scheduled)]
    {
        let tokens = Tensor::ones((1, 7, 2), DType::F32, &Device::Cpu).unwrap();
        let mut pass = session.pass(&Step::plain(index, 4), Branch::Cond);
        let block = |_, x: Streams| x.map_joint(|t| t + 1.0);
        let y = pass.run(1, &no_signals, Streams::Joint { tokens, text: text.clone() }, block).unwrap();
        assert_eq!(y.into_image().unwrap().dims(), [1, 7 - text.end, 2]);
        drop(pass);
        assert_eq!(session.log().records().last().unwrap().why, why);
    }
    assert_eq!(session.log().failsafes(), 1);
}

#[test]
fn streams_that_are_joined_or_apart_are_of_one_shape() {
    // The replacement for 0..3 has separate streams; blocks 2 and 3 join them when they run.
    let toy = dual(2, 3);
    let both = [(0..3, Script::at([2, 4]).hook(0)), (3..5, Script::at([3, 4, 5]).hook(1))];
    let mut session = rings(5, both).build().session();
    run(&toy, Some(&mut session), &alone(8), 1).unwrap();
    assert_eq!(session.log().failsafes(), 0);
    assert_eq!(reused(&session, 1, Branch::Cond), [3, 4, 5]);
}

/// Rebuilds the unconditional branch from the conditional one at odd steps.
#[derive(Clone, Debug)]
struct FromCond;

impl TimestepCache for FromCond {
    type State = ();

    fn base(&self) -> Base {
        Base::Leader
    }

    fn head(&self, (): &mut (), step: &Step, branch: Branch, _: &Head<'_>) -> Result<Verdict> {
        let reuse = branch == Branch::Uncond && step.index % 2 == 1;
        Ok(if reuse { Verdict::reuse(Why::Scheduled) } else { Verdict::compute(Why::Scheduled) })
    }
}

#[test]
fn what_an_inner_cache_put_into_the_leader_is_of_no_other_shape() {
    for toy in [Toy::image(4), dual(2, 2)] {
        let outer: Arc<dyn BlockHook> =
            Arc::new(CacheHook::new(HookId(0), Box::new(FromCond), None, Guards::default()));
        let mut session = rings(4, [(0..4, outer), (0..4, Script::at([3, 5]).hook(1))]).build().session();
        let ran = run(&toy, Some(&mut session), &guided(8), 1).unwrap();
        let third = ran.iter().find(|ran| (ran.step.index, ran.branch) == (3, Branch::Uncond)).unwrap();
        assert!(third.records[0].reused, "{:?}", third.records);
        assert_eq!(session.log().failsafes(), 0);
    }
}
