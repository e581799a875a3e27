//! A strategy that looks at tensors itself: it skips while the input of its blocks has hardly changed since
//! the last step at which they ran.

use candle_core::{Device, Result, Tensor};
use magcache_core::{
    Branch, Guards, Head, HookRegistry, Step, Strategy, Streams, TimestepCache, Trajectory, Verdict, Why,
};

#[derive(Debug)]
struct Still {
    threshold: f64,
}

#[derive(Debug, Default)]
struct Kept {
    anchor: Option<Tensor>,
    pending: Option<Tensor>,
}

magcache_core::fields!(Kept { anchor, pending });

impl TimestepCache for Still {
    type State = Kept;

    fn head(&self, kept: &mut Kept, _: &Step, _: Branch, x: &Head<'_>) -> Result<Verdict> {
        let now = x.input.image()?;
        let verdict = match &kept.anchor {
            Some(before) => Verdict::below(x.relative_l1(&now, before)?, self.threshold),
            None => Verdict::compute(Why::NoHistory),
        };
        kept.pending = Some(now);
        Ok(verdict)
    }

    fn tail(&self, kept: &mut Kept, _: &Step, _: Branch, _: &Streams, _: &Streams) -> Result<()> {
        kept.anchor = kept.pending.take().or(kept.anchor.take());
        Ok(())
    }
}

#[test]
fn it_compares_with_the_last_step_that_ran() {
    let strategy = Strategy::cache(Still { threshold: 0.25 }, Guards::default());
    let hooks = HookRegistry::builder(2).strategy(0..2, strategy).unwrap().build();
    let mut session = hooks.session();
    // The input grows by 0.1 a step: of the last that ran, it is a quarter away after 3, 4 and 5 steps.
    for step in Trajectory::plain(12, &[Branch::Cond]).steps() {
        let x = Tensor::full(1.0 + 0.1 * step.index as f32, (1, 4, 8), &Device::Cpu).unwrap();
        session.pass(&step, Branch::Cond).blocks(&[0.1, 0.2], x, |weight, x| x + (x * *weight)?).unwrap();
    }
    let records = session.log().records().iter();
    let computed: Vec<usize> = records.filter(|record| !record.reused).map(|record| record.step).collect();
    assert_eq!(computed, [0, 3, 7]);
}
