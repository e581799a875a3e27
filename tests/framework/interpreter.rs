//! The chain against a second implementation of its rules, on random plans: outputs to the bit, and every
//! decision.
//!
//! `PROPTEST_CASES=10000 cargo test --release --workspace --test framework interpreter` tries more.

mod machine;
mod rings;

use std::cell::Cell;

use candle_core::{Error, Result};
use machine::{Flow, Inner, Interpreter, Line, Model};
use magcache_core::{
    forecast::{ForecastConfig, OutputConfig},
    log::{DecisionLog, Record},
    strategy::{Base, Branches},
};
use magcache_strategies::taylor::TaylorConfig;
use proptest::prelude::*;
use rings::{Place, Ring, Stand, When};

use crate::prelude::*;

const MODULES: [&str; 2] = ["mix", "ffn"];
const TOKENS: usize = 3;
const TEXT: usize = 2;

/// Random numbers from a seed.
struct Dice(u64);

impl Dice {
    /// One of `0..n`.
    fn roll(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.roll(n) == 0
    }

    fn range(&mut self, n: usize) -> Range<usize> {
        let start = self.roll(n);
        start..start + 1 + self.roll(n - start)
    }

    fn steps(&mut self, n: usize) -> Vec<usize> {
        (0..n).filter(|_| self.one_in(2)).collect()
    }
}

/// Blocks with one stream, with two, or with two that are joined into one sequence from block `joint` on.
#[derive(Debug)]
struct Mini {
    blocks: usize,
    text: bool,
    joint: usize,
    fault: Cell<Option<usize>>,
}

impl Mini {
    fn embed(&self, x: &Tensor, branch: Branch) -> Result<Flow> {
        let text = wave(TEXT, if branch == Branch::Cond { 0.3 } else { -0.4 })?;
        Ok(Flow { image: x.affine(0.9, 0.1)?, text: self.text.then_some(text) })
    }

    fn forward(&self, x: &Tensor, step: &Step, branch: Branch, pass: &mut Pass<'_>) -> Result<Tensor> {
        pass.forward(x.clone(), |x, pass| {
            let block = |i, x: Streams, modules: &mut Modules<'_>| {
                if !self.text || i < self.joint {
                    let flow = self.inside(i, apart(&x)?, step, branch, modules)?;
                    return Ok(match flow.text {
                        Some(text) => Streams::Dual { image: flow.image, text },
                        None => Streams::Image(flow.image),
                    });
                }
                x.map_joint(|tokens| {
                    let both = Streams::Joint { tokens: tokens.clone(), text: 0..TEXT };
                    let Flow { image, text } = self.inside(i, apart(&both)?, step, branch, modules)?;
                    Tensor::cat(&[&text.ok_or_else(|| Error::msg("no text"))?, &image], 1)
                })
            };
            let Flow { image, text } = self.embed(&x, branch)?;
            let x = match text {
                Some(text) => Streams::Dual { image, text },
                None => Streams::Image(image),
            };
            pass.run_modules(self.blocks, &no_signals, x, block)?.into_image()
        })
    }

    fn inside(
        &self,
        i: usize,
        x: Flow,
        step: &Step,
        branch: Branch,
        modules: &mut Modules<'_>,
    ) -> Result<Flow> {
        let mut inner = |name: &str, x: Tensor, f: &dyn Fn(&Tensor) -> Result<Tensor>| {
            modules.module(name, Streams::Image(x), |x| x.map_image(f))?.into_image()
        };
        self.block(i, x, step, branch, &mut inner)
    }
}

fn apart(x: &Streams) -> Result<Flow> {
    Ok(Flow { image: x.image()?, text: x.text()? })
}

fn wave(tokens: usize, phase: f64) -> Result<Tensor> {
    let values = (0..tokens * 4).map(|i| ((i as f64 * 0.7 + phase).sin() + 0.1) as f32).collect();
    Tensor::from_vec(values, (1, tokens, 4), &Device::Cpu)
}

impl Model for Mini {
    fn blocks(&self) -> usize {
        self.blocks
    }

    fn block(&self, i: usize, x: Flow, step: &Step, branch: Branch, inner: Inner<'_>) -> Result<Flow> {
        let shift = 0.2 * step.sigma + 0.1 * i as f64 + if branch == Branch::Cond { 0.05 } else { 0.0 };
        let (gain, expert) = (0.7 + 0.05 * i as f64, f64::from(step.expert.0));
        let mean = match &x.text {
            Some(text) => Tensor::cat(&[text, &x.image], 1)?.mean_keepdim(1)?,
            None => x.image.mean_keepdim(1)?,
        };
        let shifted = |t: &Tensor| t.affine(gain, shift)?.broadcast_add(&mean)?.tanh();
        let mixed = inner("mix", x.image.clone(), &shifted)?;
        if self.fault.get() == Some(i) {
            return Err(Error::msg("told to fail"));
        }
        let image = (&x.image + (mixed * 0.1)?)?;
        let image = (&image + inner("ffn", image.clone(), &|t| t.affine(0.05, 0.01 * (shift + expert)))?)?;
        let text = x.text.map(|text| &text + (shifted(&text)? * 0.2)?).transpose()?;
        Ok(Flow { image, text })
    }
}

/// The strategy of a ring, implemented for the chain.
#[derive(Debug)]
struct Scripted(Ring);

impl TimestepCache for Scripted {
    type State = Near;

    fn window(&self) -> Window {
        Window { front: self.0.front, back: self.0.back }
    }

    fn base(&self) -> Base {
        if self.0.leader { Base::Leader } else { Base::Input }
    }

    fn head(&self, state: &mut Near, step: &Step, branch: Branch, x: &Head<'_>) -> Result<Verdict> {
        match &self.0.when {
            When::Steps(cond, others) => {
                let steps = if branch == Branch::Cond { cond } else { others };
                let reuse = steps.contains(&step.index);
                Ok(if reuse { Verdict::reuse(Why::Scheduled) } else { Verdict::compute(Why::Scheduled) })
            }
            When::Near(threshold) => {
                let now = x.front_residual()?;
                let verdict = match &state.anchor {
                    None => Verdict::compute(Why::NoHistory),
                    Some(anchor) => Verdict::below(x.relative_l1(&now, anchor)?, *threshold),
                };
                state.pending = Some(now);
                Ok(verdict)
            }
        }
    }

    fn tail(&self, state: &mut Near, _: &Step, _: Branch, _: &Streams, _: &Streams) -> Result<()> {
        state.anchor = state.pending.take();
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Near {
    anchor: Option<Tensor>,
    pending: Option<Tensor>,
}

magcache_core::fields!(Near { anchor, pending });

/// What goes wrong at a step.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// A block fails on the branch with this index, and the run continues.
    Lost(usize, usize),
    /// A block fails on the branch with this index, and the step is run again.
    Failed(usize, usize),
    /// The step is cancelled after this many branches, and run again.
    Cancelled(usize),
}

/// A model, its rings and a run.
#[derive(Debug)]
struct Plan {
    mini: Mini,
    rings: Vec<Ring>,
    run: Trajectory,
    storage: Option<DType>,
    budget: Option<usize>,
    text_ends: bool,
    trouble: Vec<(usize, Trouble)>,
}

fn ring(dice: &mut Dice, blocks: usize, steps: usize) -> Ring {
    let place = match dice.roll(8) {
        0 => Place::Forward,
        1 => Place::Module(MODULES[dice.roll(2)]),
        _ => Place::Blocks(dice.range(blocks)),
    };
    let around_blocks = matches!(place, Place::Blocks(_));
    let (front, back) = if around_blocks && dice.one_in(2) { (dice.roll(3), dice.roll(3)) } else { (0, 0) };
    let leader = !matches!(place, Place::Module(_)) && dice.one_in(6);
    let near = front > 0 && !leader && dice.one_in(2);
    Ring {
        when: if near {
            When::Near(0.002 * 2f64.powi(dice.roll(8) as i32))
        } else {
            When::Steps(dice.steps(steps), dice.steps(steps))
        },
        stand: [Stand::Residual, Stand::Output, Stand::Line][dice.roll(3)],
        front,
        back,
        warmup: dice.roll(3),
        last_steps: dice.roll(2),
        max_skips: dice.one_in(3).then(|| 1 + dice.roll(2)),
        max_total: dice.one_in(4).then(|| dice.roll(4)),
        follows: !leader && dice.one_in(4),
        leader,
        experts: if dice.one_in(5) { vec![dice.roll(2) as u8] } else { Vec::new() },
        place,
    }
}

fn trouble(dice: &mut Dice, steps: usize, blocks: usize, again: bool) -> Vec<(usize, Trouble)> {
    let mut out = Vec::new();
    for step in 1..steps {
        let (branch, block) = (dice.roll(2), dice.roll(blocks));
        match dice.roll(8) {
            0 => out.push((step, Trouble::Lost(branch, block))),
            1 if again => out.push((step, Trouble::Failed(branch, block))),
            2 if again => out.push((step, Trouble::Cancelled(branch + 1))),
            _ => {}
        }
    }
    out
}

fn plan(seed: u64) -> Plan {
    let mut dice = Dice(seed);
    let (blocks, steps) = (1 + dice.roll(6), 6 + dice.roll(6));
    let text = dice.roll(3) > 0;
    let mini = Mini { blocks, text, joint: dice.roll(blocks + 1), fault: Cell::new(None) };
    let rings: Vec<Ring> = (0..=dice.roll(4)).map(|_| ring(&mut dice, blocks, steps)).collect();
    let run = guided(steps);
    let run = if dice.one_in(3) {
        let first = 2 + dice.roll(steps - 3);
        run.with_phases(phases(&[first, steps - first]))
    } else {
        run
    };
    // A slot that a budget dropped in the middle of a step is missing when that step is run again.
    let budget = dice.one_in(3).then(|| 24 * (1 + dice.roll(30)));
    let trouble =
        if dice.one_in(2) { trouble(&mut dice, steps, blocks, budget.is_none()) } else { Vec::new() };
    let storage = [None, None, Some(DType::BF16), Some(DType::F16)][dice.roll(4)];
    Plan { mini, rings, run, storage, budget, text_ends: dice.one_in(2), trouble }
}

fn hook(id: u16, ring: &Ring) -> Arc<dyn BlockHook> {
    let forecast: Arc<dyn ForecastConfig> = match ring.stand {
        Stand::Residual => Arc::new(ResidualConfig {}),
        Stand::Output => Arc::new(OutputConfig {}),
        Stand::Line => Arc::new(TaylorConfig::default()),
    };
    let guards = Guards {
        warmup: Warmup::Steps(ring.warmup),
        last_steps: ring.last_steps,
        max_skips: ring.max_skips,
        max_total_skips: ring.max_total,
        branches: if ring.follows { Branches::CondDecides } else { Branches::Own },
    };
    Arc::new(CacheHook::new(HookId(id), Box::new(Scripted(ring.clone())), Some(forecast), guards))
}

impl Plan {
    fn session(&self) -> Session {
        let mut builder = HookRegistry::builder(self.mini.blocks);
        for ring in &self.rings {
            let (id, experts) = (builder.next_id(), ring.experts.iter().map(|e| Expert(*e)));
            let hook = hook(id.0, ring);
            builder = match &ring.place {
                Place::Blocks(at) => builder.ring(at.clone(), hook).unwrap(),
                Place::Module(name) => builder.module(name, hook),
                Place::Forward => builder.forward(hook),
            };
            builder = builder.only_experts(id, &experts.collect::<Vec<_>>());
        }
        let builder = if self.text_ends { builder.text_ends() } else { builder };
        let storage = StoragePolicy { dtype: self.storage, budget: self.budget, ..StoragePolicy::default() };
        builder.storage(storage).build().session()
    }

    /// Runs the chain.
    fn ran(&self) -> (Session, Vec<Option<Tensor>>) {
        let mut session = self.session();
        let mut run = |step: &Step, branch: Branch| {
            self.mini.forward(&latents(step), step, branch, &mut session.pass(step, branch))
        };
        let outputs = self.outputs(&mut run, |attempt| attempt());
        (session, outputs)
    }

    /// The outputs of all passes that are not lost, computed by `pass`; `undone` runs attempts and rolls them
    /// back.
    fn outputs(
        &self,
        pass: &mut dyn FnMut(&Step, Branch) -> Result<Tensor>,
        undone: impl Fn(&mut dyn FnMut()),
    ) -> Vec<Option<Tensor>> {
        let mut out = Vec::new();
        let mut one = |step: &Step, branch: Branch, fault: Option<(Branch, usize)>| {
            self.mini.fault.set(fault.filter(|(at, _)| *at == branch).map(|(_, block)| block));
            let output = pass(step, branch);
            self.mini.fault.set(None);
            output.ok()
        };
        for step in self.run.steps() {
            let mut lost = None;
            for (_, trouble) in self.trouble.iter().filter(|(at, _)| *at == step.index) {
                let (branches, fault) = match trouble {
                    Trouble::Lost(branch, block) => {
                        lost = Some((BOTH[*branch], *block));
                        continue;
                    }
                    Trouble::Failed(branch, block) => (branch + 1, Some((BOTH[*branch], *block))),
                    Trouble::Cancelled(branches) => (*branches, None),
                };
                undone(&mut || {
                    let _ =
                        BOTH[..branches].iter().try_for_each(|branch| one(&step, *branch, fault).map(drop));
                });
            }
            out.extend(BOTH.map(|branch| one(&step, branch, lost)));
        }
        out
    }
}

/// The decisions of a session; with `held`, also the bytes that its slots held before each decision.
fn lines(log: &DecisionLog, held: bool) -> Vec<Line> {
    let line = |r: &Record| Line {
        step: r.step,
        expert: r.expert.0,
        branch: r.branch,
        ring: usize::from(r.hook.0),
        blocks: r.blocks.clone(),
        module: r.module.as_deref().map(str::to_owned),
        replaced: r.reused,
        why: r.why.as_str(),
        bytes: if held { r.bytes } else { 0 },
    };
    log.records().iter().map(line).collect()
}

fn latents(step: &Step) -> Tensor {
    wave(TOKENS, 0.5 * step.sigma).unwrap()
}

fn check(seed: u64) -> std::result::Result<(), TestCaseError> {
    let plan = plan(seed);
    let (session, got) = plan.ran();
    let mut reader = Interpreter::new(&plan.mini, plan.rings.clone());
    (reader.storage, reader.budget, reader.text_ends) = (plan.storage, plan.budget, plan.text_ends);
    let mut read = |step: &Step, branch: Branch| {
        reader.forward(step, branch, &latents(step), &|x| plan.mini.embed(x, branch))
    };
    let wanted = plan.outputs(&mut read, |attempt| reader.undone(attempt));
    // When a failed pass is run again, the slot that it filled already exists, so the bytes differ.
    let held = plan.trouble.is_empty();
    let (a, mut b) = (lines(session.log(), held), reader.log());
    b.iter_mut().filter(|_| !held).for_each(|line| line.bytes = 0);
    let differs =
        a.iter().zip(&b).position(|(a, b)| a != b).or((a.len() != b.len()).then(|| a.len().min(b.len())));
    if let Some(at) = differs {
        prop_assert!(false, "decision {at}: {:?}, by the rules {:?}; {plan:?}", a.get(at), b.get(at));
    }
    for (i, (a, b)) in got.iter().zip(&wanted).enumerate() {
        let same = match (a, b) {
            (Some(a), Some(b)) => same_bits(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        prop_assert!(same, "pass {i}: {a:?}, by the rules {b:?}; {plan:?}");
    }
    prop_assert_eq!(session.slots().evicted(), reader.evicted(), "{:?}", plan);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_chain_does_what_the_rules_say(seed in any::<u64>()) {
        check(seed)?;
    }
}

#[test]
fn random_plans_meet_everything() {
    let plans: Vec<Plan> = (0..300).map(plan).collect();
    let mut seen = BTreeSet::new();
    for plan in &plans {
        seen.extend(plan.ran().0.log().records().iter().map(|r| (r.why.as_str(), r.reused)));
    }
    let all = [
        ("followed", false),
        ("followed", true),
        ("forced", false),
        ("last-steps", false),
        ("leads", false),
        ("no-history", false),
        ("no-leader", false),
        ("outer-cache", true),
        ("over-threshold", false),
        ("scheduled", false),
        ("scheduled", true),
        ("skip-cap", false),
        ("total-skip-cap", false),
        ("under-threshold", true),
        ("warmup", false),
        ("window", false),
    ];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), all);
}
