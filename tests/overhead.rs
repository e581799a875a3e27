//! Overhead of the hook chain: none when off, one residual addition on a skipped step, one read per metric.
//!
//! `cargo bench -p magcache-tests --bench overhead`

use std::{hint::black_box, sync::Arc};

use candle_core::{DType, Device, Result, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use magcache_core::{
    Branch, CachePlan, Guards, Head, HookRegistry, ModelMeta, Pass, Signal, Stacks, Step, Streams,
    TimestepCache, Trajectory, Verdict, Why, metrics, no_signals,
    state::{HookId, StoragePolicy, Stored},
    strategy::CacheHook,
};

const BLOCKS: usize = 30;
const TOKENS: usize = 256;
const CHANNELS: usize = 256;

#[derive(Debug)]
struct Always;

impl TimestepCache for Always {
    type State = ();

    fn head(&self, (): &mut (), _: &Step, _: Branch, _: &Head<'_>) -> Result<Verdict> {
        Ok(Verdict::reuse(Why::Scheduled))
    }
}

fn latents(scale: f32) -> Tensor {
    let values: Vec<f32> = (0..TOKENS * CHANNELS).map(|i| (i as f32 * 0.01).sin() * scale).collect();
    Tensor::from_vec(values, (1, TOKENS, CHANNELS), &Device::Cpu).expect("the shape fits")
}

/// A block so cheap that the overhead of the chain would show.
fn block(_: usize, x: Streams) -> Result<Streams> {
    x.map_image(|x| x.narrow(1, 0, TOKENS))
}

fn off_against_a_bare_loop(c: &mut Criterion) {
    let x = latents(1.0);
    let mut group = c.benchmark_group("thirty blocks that do nothing");
    group.bench_function("bare loop", |b| {
        b.iter(|| (0..BLOCKS).try_fold(Streams::Image(x.clone()), |x, i| block(i, black_box(x))));
    });
    group.bench_function("Pass::off", |b| {
        b.iter(|| {
            Pass::off().run(BLOCKS, &no_signals, Streams::Image(x.clone()), |i, x| block(i, black_box(x)))
        });
    });
    group.bench_function("Pass::off, each the module of a block", |b| {
        b.iter(|| {
            Pass::off().run_modules(BLOCKS, &no_signals, Streams::Image(x.clone()), |i, x, modules| {
                modules.module("mixer", x, |x| block(i, black_box(x)))
            })
        });
    });
    let registry = HookRegistry::builder(BLOCKS).build();
    group.bench_function("session without hooks", |b| {
        let mut session = registry.session();
        b.iter(|| {
            let mut pass = session.pass(&Step::plain(1, 50), Branch::Cond);
            pass.run(BLOCKS, &no_signals, Streams::Image(x.clone()), |i, x| block(i, black_box(x)))
        });
    });
    group.finish();
}

fn skip_against_an_addition(c: &mut Criterion) {
    let (x, residual) = (latents(1.0), latents(0.1));
    let mut group = c.benchmark_group("a skipped step");
    group.bench_function("one addition", |b| b.iter(|| black_box(&x).add(black_box(&residual))));
    let hook = CacheHook::new(HookId(0), Box::new(Always), None, Guards::default());
    let builder = HookRegistry::builder(BLOCKS).ring(0..BLOCKS, Arc::new(hook)).expect("the range fits");
    let registry = builder.build();
    group.bench_function("skip", |b| {
        let mut session = registry.session();
        let mut pass = |index| {
            let mut pass = session.pass(&Step::plain(index, 50), Branch::Cond);
            // The deferred residual is added when the output is read.
            pass.run(BLOCKS, &no_signals, Streams::Image(x.clone()), |i, x| block(i, black_box(x)))?
                .into_image()
        };
        pass(0).expect("a computed step");
        b.iter(|| pass(1));
    });
    group.finish();
}

fn each_metric(c: &mut Criterion) {
    let (a, b) = (latents(1.0), latents(1.1));
    let half = (a.to_dtype(DType::BF16).expect("a cast"), b.to_dtype(DType::BF16).expect("a cast"));
    let mut group = c.benchmark_group("metrics of 256 tokens x 256 channels");
    group.bench_function("relative_l1", |bench| bench.iter(|| metrics::relative_l1(&a, &b)));
    group.bench_function("relative_l1 bf16", |bench| bench.iter(|| metrics::relative_l1(&half.0, &half.1)));
    group.bench_function("relative_l2", |bench| bench.iter(|| metrics::relative_l2(&a, &b)));
    group.bench_function("magnitude_ratio", |bench| bench.iter(|| metrics::magnitude_ratio(&a, &b)));
    group.bench_function("is_finite_on_host", |bench| bench.iter(|| metrics::is_finite_on_host(&a)));
    group.finish();

    let large = |scale: f32| {
        let values: Vec<f32> = (0..4 << 20).map(|i| (i as f32 * 0.01).sin() * scale).collect();
        Tensor::from_vec(values, (1, 4096, 1024), &Device::Cpu).expect("the shape fits")
    };
    let (a, b, c_) = (large(1.0), large(1.1), large(0.9));
    let mut group = c.benchmark_group("metrics of 16 MB");
    group.throughput(Throughput::Bytes(32 << 20));
    group.bench_function("relative_l1", |bench| bench.iter(|| metrics::relative_l1(&a, &b)));
    group.bench_function("residual, then relative_l1", |bench| {
        bench.iter(|| metrics::relative_l1(&a.sub(&b)?, &c_));
    });
    group.bench_function("residual_and_l1_sums", |bench| {
        bench.iter(|| metrics::residual_and_l1_sums(&a, &b, &c_));
    });
    group.bench_function("is_finite_on_host", |bench| bench.iter(|| metrics::is_finite_on_host(&a)));
    group.finish();
}

fn residuals_in_half_precision(c: &mut Criterion) {
    let values: Vec<f32> = (0..4 << 20).map(|i| (i as f32 * 0.01).sin()).collect();
    let x = Tensor::from_vec(values, (1, 4096, 1024), &Device::Cpu).expect("the shape fits");
    let streams = Streams::Image(x.clone());
    let mut group = c.benchmark_group("a residual of 16 MB");
    group.throughput(Throughput::Bytes(16 << 20));
    for dtype in [DType::BF16, DType::F16] {
        let policy = StoragePolicy { dtype: Some(dtype), ..StoragePolicy::default() };
        let stored = Stored::new(&streams, &policy).expect("a cast");
        let name = |what: &str| format!("{dtype:?} {what}");
        group.bench_function(name("stored"), |bench| bench.iter(|| Stored::new(&streams, &policy)));
        group.bench_function(name("loaded"), |bench| bench.iter(|| stored.load()));
        group.bench_function(name("by candle"), |bench| bench.iter(|| x.to_dtype(dtype)));
    }
    group.finish();
}

/// What strategies do at a step at the size of 1,024 tokens of Wan's 1.3B model, without its blocks: a
/// decision, with the skip or the bookkeeping of a computed step that follows.
fn decisions_at_the_size_of_a_model(c: &mut Criterion) {
    magcache_strategies::link();
    let tensor = |shape: &[usize]| {
        let values = (0..shape.iter().product::<usize>()).map(|i| (i as f32 * 0.37).sin());
        Tensor::from_iter(values, &Device::Cpu).and_then(|t| t.reshape(shape)).expect("the shape fits")
    };
    let (tokens, latents) = (tensor(&[1, 1024, 1536]), tensor(&[1, 16, 4, 32, 32]));
    let model = ModelMeta::of("bench", "tests").signals(&[Signal::Latents, Signal::ModulatedInput]).meta();
    let (model, run) = (model.with_blocks(&[BLOCKS]), Trajectory::plain(1_000_000, &[Branch::Cond]));
    let session = |table: &str| {
        let plan = CachePlan::parse(&format!("[[cache]]\n{table}")).expect("the table is sound");
        plan.build(&model, Some(&run)).expect("it fits").registry.session()
    };
    let mut group = c.benchmark_group("a step of 1,024 tokens without its blocks");
    let around_blocks = [
        ("no hook", "strategy = \"schedule\"\nskip = []"),
        ("seacache on latents", "strategy = \"seacache\"\nthreshold = 1e-9"),
        ("seacache on latents, skipped", "strategy = \"seacache\"\nthreshold = 1e9\nmax_skips = 1000000"),
        ("seacache on tokens", "strategy = \"seacache\"\ndialect = \"filtered\"\nthreshold = 1e-9"),
        ("fbcache", "strategy = \"fbcache\"\nthreshold = 1e-9"),
        ("magcache skipped", "strategy = \"schedule\"\nskip = [1]"),
    ];
    for (name, table) in around_blocks {
        let mut session = session(table);
        let mut step = 0;
        group.bench_function(name, |b| {
            b.iter(|| -> Result<Tensor> {
                let mut pass = session.pass(&run.step(step), Branch::Cond);
                step += 1;
                let out = Stacks::default()
                    .numbered(BLOCKS, |_, x, _| x.map_image(|x| x.affine(1.0, 0.0)))
                    .signals(|signal, _| {
                        Ok(if signal == Signal::Latents { latents.clone() } else { tokens.clone() })
                    })
                    .grid(&[4, 16, 16])
                    .run(&mut pass, tokens.clone())?;
                Ok(out)
            });
        });
    }
    let line = "strategy = \"schedule\"\nat = \"forward\"\nforecast = { type = \"taylor\", of = \"output\", abscissa = \"sigma\" }";
    let skip: Vec<usize> = (2..200_000).collect();
    let mut session = session(&format!("{line}\nskip = {skip:?}"));
    let mut step = 0;
    group.bench_function("a forward skipped along a line", |b| {
        b.iter(|| -> Result<Tensor> {
            let place = step % 200_000;
            step += 1;
            session.pass(&run.step(place), Branch::Cond).forward(latents.clone(), |x, _| x.affine(1.0, 0.0))
        });
    });
    group.finish();
}

criterion_group!(
    benches,
    off_against_a_bare_loop,
    skip_against_an_addition,
    decisions_at_the_size_of_a_model,
    each_metric,
    residuals_in_half_precision
);
criterion_main!(benches);
