//! Weights that depend on nothing but their names, and plans for small runs.

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use magcache_core::{Branch, CachePlan, ModelMeta, Session, Trajectory, metrics, testing::same_bits};

/// Numbers in −1..1.
fn noise(seed: &str, count: usize) -> Vec<f32> {
    let mut state = seed.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// A tensor of such numbers.
pub(crate) fn random(seed: &str, shape: impl Into<Shape>) -> Tensor {
    let shape = shape.into();
    Tensor::from_vec(noise(seed, shape.elem_count()), shape, &Device::Cpu).unwrap()
}

struct Random;

impl SimpleBackend for Random {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, _: &Device) -> Result<Tensor> {
        let values = random(name, shape.clone());
        let values = match shape.dims() {
            // Biases are small, and weights of norms are near 1.
            [_] if name.ends_with("bias") => values.affine(0.1, 0.0),
            [_] => values.affine(0.2, 1.0),
            dims => {
                // Time enters weakly, so that neighbouring steps resemble each other as in a trained model.
                let size =
                    if name.starts_with("time_in") || name.starts_with("t_embedder") { 0.3 } else { 1.5 };
                values.affine(size / (*dims.last().unwrap() as f64).sqrt(), 0.0)
            }
        };
        values?.to_dtype(dtype)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!("{name} is asked for without a shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

pub(crate) fn weights() -> VarBuilder<'static> {
    VarBuilder::from_backend(Box::new(Random), DType::F32, Device::Cpu)
}

/// A session with the caches of a plan.
pub(crate) fn session(plan: &str, meta: &ModelMeta, run: &Trajectory) -> Session {
    magcache_strategies::link();
    CachePlan::parse(plan).unwrap().build(meta, Some(run)).unwrap().registry.session()
}

/// How many passes were skipped, by branch.
pub(crate) fn skipped(session: &Session) -> [usize; 2] {
    let count = |branch| session.log().records().iter().filter(|r| r.reused && r.branch == branch).count();
    [Branch::Cond, Branch::Uncond].map(count)
}

pub(crate) fn assert_same(case: &str, ours: &[Tensor], theirs: &[Tensor]) {
    assert_eq!(ours.len(), theirs.len(), "{case}");
    for (i, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        assert!(same_bits(ours, theirs), "{case}: output {i} has other bits");
    }
}

/// The distance from a run without caches, relative to how far that run went: another result, but near.
pub(crate) fn assert_near(case: &str, [start, dense, cached]: [&Tensor; 3], bound: f64) {
    let rms = |a, b| metrics::worst(metrics::rms_difference(a, b).unwrap());
    let off = rms(cached, dense) / rms(dense, start);
    println!("{case}: {off:.2e}");
    assert!(off > 0.0 && off < bound, "{case}: {off}");
}
