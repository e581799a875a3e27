//! Denoises without candle and shows which blocks ran:
//! `cargo run --release -p magcache-plugin-runtime --example loop`.
#![expect(clippy::print_stdout, reason = "an example prints what it found")]

use magcache_core::{Branch, CachePlan, ConfigError};
use magcache_plugin_runtime::{META, denoise, trajectory};

fn main() -> Result<(), ConfigError> {
    let (run, latents) = (trajectory(20), (0..64).map(|i| (i as f32 * 0.7).sin()).collect());
    let (_, log) = denoise("[[cache]]\nstrategy = \"fbcache\"\nthreshold = 0.1", &run, latents)?;
    for record in log.records().iter().filter(|record| record.branch == Branch::Cond) {
        let done = if record.reused { "reuse" } else { "compute" };
        println!("step {:2}: {done} {:?} ({})", record.step, record.blocks, record.why);
    }
    // A schedule is known before the run: these weights can stay away.
    let plan = CachePlan::parse("[[cache]]\nstrategy = \"schedule\"\nskip = [3, 4, 6, 7]")?;
    let ahead = plan.decisions(&META, Some(&run), &[])?.decisions.ahead(&run);
    let away = ahead.iter().filter(|pass| pass.computed.is_empty()).count();
    println!("{away} of {} passes of the schedule need no block", ahead.len());
    Ok(())
}
