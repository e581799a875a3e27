//! Makes a video with the cache of `plan.toml`: `cargo run --release --example video`.
#![expect(clippy::print_stdout, reason = "an example prints what it found")]

use candle_core::{Device, Result, Tensor};
use magcache_core::{Branch, CachePlan, Trajectory};
use magcache_plugin_own::{WAN, sample, wan::Wan};

fn wave(tokens: usize, phase: f32) -> Result<Tensor> {
    let values = (0..tokens * 16).map(|i| (i as f32 * 0.3 + phase).sin()).collect();
    Tensor::from_vec(values, (1, tokens, 16), &Device::Cpu)
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let pair = [Wan::new(6, 0)?, Wan::new(6, 7)?];
    let (noise, cond, uncond) = (wave(8, 0.0)?, wave(4, 1.0)?, wave(4, 2.0)?);
    let sigmas = sample::sigmas(30);

    magcache_strategies::link();
    let run = Trajectory::from_sigmas(&sigmas, &[Branch::Cond, Branch::Uncond]).switch_at(0.875);
    let plan = CachePlan::parse(include_str!("../plan.toml"))?;
    let mut session = plan.build(&WAN, Some(&run))?.registry.session();
    sample::video(&pair, &noise, [&cond, &uncond], &sigmas, &run, &mut session)?;

    let skipped = session.log().records().iter().filter(|record| record.reused).count();
    println!("{skipped} of {} passes skipped", run.passes());
    Ok(())
}
