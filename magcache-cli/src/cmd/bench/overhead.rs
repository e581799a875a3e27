//! The overhead of the cache itself.

use std::{cell::RefCell, sync::Arc, time::Instant};

use anyhow::Result;
use candle_core::{Device, Tensor};
use magcache_core::{
    Branch, CachePlan, HookRegistry, ModelMeta, Pass, Step, Streams,
    config::{FixedSteps, Residuals, Skips},
    metrics, no_signals,
};
use serde_json::json;

use crate::{compare::estimate::Spread, console::Console};

pub(super) fn run(repeat: usize, out: &Console) -> Result<()> {
    const BLOCKS: usize = 30;
    let device = &Device::Cpu;
    let x = Tensor::randn(0f32, 1f32, (1, 1024, 1536), device)?;
    let b = Tensor::randn(0f32, 1f32, (1, 1024, 1536), device)?;
    let block = |_: usize, s: Streams| s.map_image(|x| x + &b);
    let model = ModelMeta::of("bench", env!("CARGO_PKG_NAME")).meta().with_blocks(&[BLOCKS]);
    let table = FixedSteps::registered()?.table(Skips::All(vec![1]), None)?;
    let hooks = CachePlan::from_tables(vec![table], Residuals::default())?.build(&model, None)?.registry;
    let none: Arc<HookRegistry> = Arc::default();

    let plain = || Streams::Image(x.clone());
    // The replacement for skipped blocks is added when it is read.
    let blocks = |mut pass: Pass<'_>| pass.run(BLOCKS, &no_signals, plain(), block)?.into_image().map(drop);
    // Step 1 reuses what step 0 stored, in this order in every round.
    let session = RefCell::new(hooks.session());
    let cached = |step| blocks(session.borrow_mut().pass(&Step::plain(step, 2), Branch::Cond));
    let lanes: [(&str, &str, Lane<'_>); 8] = [
        ("loop_ms", "the plain loop over 30 blocks", &|| {
            (0..BLOCKS).try_fold(plain(), |x, i| block(i, x)).map(drop)
        }),
        ("pass_off_ms", "the same through a pass that is off", &|| blocks(Pass::off())),
        ("pass_empty_ms", "through a session without hooks", &|| {
            blocks(none.session().pass(&Step::plain(0, 2), Branch::Cond))
        }),
        ("computed_ms", "through a cache, computed and stored", &|| cached(0)),
        ("skipped_ms", "through a cache, skipped", &|| cached(1)),
        ("add_ms", "one addition of two such tensors", &|| (&x + &b).map(drop)),
        ("relative_l1_ms", "relative L1", &|| metrics::relative_l1(&x, &b).map(drop)),
        ("magnitude_ratio_ms", "magnitude ratio", &|| metrics::magnitude_ratio(&x, &b).map(drop)),
    ];
    let mut times = vec![Vec::new(); lanes.len()];
    for round in 0..=repeat.max(1) {
        for ((_, _, lane), times) in lanes.iter().zip(&mut times) {
            let start = Instant::now();
            lane()?;
            // The first round warms up.
            if round > 0 {
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    let mut text =
        "one stream [1, 1024, 1536] f32, 30 blocks that add a tensor; medians of rounds\n".to_owned();
    let mut document = json!({ "metrics": {} });
    for ((key, what, _), times) in lanes.iter().zip(times) {
        let median = Spread::of(times).median;
        text += &format!("  {what:<40} {median:>9.3} ms\n");
        if key.starts_with("relative") || key.starts_with("magnitude") {
            document["metrics"][key] = json!(median);
        } else {
            document[key] = json!(median);
        }
    }
    out.answer(&text, &document);
    Ok(())
}

/// A function that is timed in turns with the others.
type Lane<'a> = &'a dyn Fn() -> candle_core::Result<()>;
