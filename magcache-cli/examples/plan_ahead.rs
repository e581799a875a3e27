//! Which steps of Wan2.1 14B a cache will skip, without the weights: MagCache needs only the step and its
//! calibrated curve.
//!
//! `cargo run --release --example plan_ahead`
#![expect(clippy::print_stdout, reason = "it shows what it did")]

use anyhow::Result;
use magcache_core::{Branch, CachePlan, meta, schedule::simulate, state::HookId};
use magcache_models::sampler::{Sampler, SamplerKind, SchedulerConfig};

const STEPS: usize = 50;

/// The steps that are skipped at this threshold.
fn skipped(threshold: f64) -> Result<Vec<usize>> {
    magcache_strategies::link();
    magcache_models::link();
    let model = meta::model("wan2.1-t2v-14b")?;
    let run = Sampler::new(&SchedulerConfig::new(SamplerKind::UniPc, 5.0), STEPS)?.trajectory(true);
    let job = CachePlan::parse(&format!("[[cache]]\nstrategy = \"magcache\"\nthreshold = {threshold}"))?;
    let hooks = job.build(model, Some(&run))?.registry;
    let log = simulate(&hooks, model, &run)?;
    Ok(log.reused(HookId(0), Branch::Cond).collect())
}

fn main() -> Result<()> {
    for threshold in [0.06, 0.12, 0.24] {
        let skipped = skipped(threshold)?;
        let strip: String = (0..STEPS).map(|step| if skipped.contains(&step) { '.' } else { '#' }).collect();
        println!("threshold {threshold:.2}  {strip}  {} of {STEPS} computed", STEPS - skipped.len());
    }
    Ok(())
}

#[test]
fn a_larger_threshold_skips_more() {
    let [few, many] = [0.06, 0.24].map(|threshold| skipped(threshold).unwrap().len());
    assert!(0 < few && few < many && many < STEPS, "{few} and {many} of {STEPS}");
}
