//! TaylorSeer as a forecast: equal to that of diffusers, at the true distances between steps, with any
//! strategy.

use magcache_core::forecast::{Entered, Forecast};
use magcache_strategies::taylor::{Dialect, Of, Taylor, TaylorConfig};
use serde_json::Value;

use crate::prelude::*;

/// The largest difference between our forecasts of the steps that were not computed and those of diffusers.
fn distance(tensors: &HashMap<String, Tensor>, case: &Value, config: TaylorConfig) -> f64 {
    let values = &tensors["values"];
    let expected = &tensors[case["name"].as_str().unwrap()];
    let computed: Vec<usize> = serde_json::from_value(case["computed"].clone()).unwrap();
    let dtype = if case["dtype"] == "bf16" { DType::BF16 } else { DType::F32 };
    let storage = StoragePolicy { dtype: Some(dtype), ..StoragePolicy::default() };
    let mut taylor = Taylor::new(config);
    let mut worst = 0.0f64;
    for step in 0..values.dim(0).unwrap() {
        let y = values.narrow(0, step, 1).unwrap();
        let x = Streams::Image(y.zeros_like().unwrap());
        let at = Step::plain(step, values.dim(0).unwrap());
        let at = Entered::new(&at, &x);
        if computed.contains(&step) {
            taylor.observe(&at, &Streams::Image(y), &storage).unwrap();
            continue;
        }
        let got = taylor.predict(&at).unwrap().unwrap().into_image().unwrap();
        let want = expected.narrow(0, step, 1).unwrap();
        worst = worst.max(metrics::worst(metrics::rms_difference(&got, &want).unwrap()));
    }
    worst
}

#[test]
fn forecasts_are_those_of_diffusers_on_the_same_values() {
    // The output of `tests/reference/taylor.py`: the module's output at each step, and the cases.
    let (report, tensors) = recorded("taylor");
    let cases = report["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 12);
    for case in cases {
        let order = case["order"].as_u64().unwrap() as usize;
        let of = |dialect| {
            [Of::Output, Of::Residual]
                .map(|of| {
                    distance(&tensors, case, TaylorConfig { order, of, dialect, ..TaylorConfig::default() })
                })
                .into_iter()
                .fold(0.0, f64::max)
        };
        let (theirs, ours) = (of(Dialect::Diffusers), of(Dialect::Newton));
        assert!(theirs < 2e-6, "{case}: {theirs}");
        // Newton's form differs from order 2 on.
        assert_eq!(ours > 1e-3, order > 1, "{case}: {ours}");
    }
}

/// A model of one block that adds `pace` times the step.
fn linear(session: &mut Session, index: usize, pace: f64) -> f32 {
    let x = ones(1, 1);
    let block = |_, x: Streams| x.map_image(|x| x.affine(1.0, pace * index as f64));
    let y = session.pass(&Step::plain(index, 12), Branch::Cond).run(1, &no_signals, x, block).unwrap();
    values(&y.into_image().unwrap())[0] as f32
}

#[test]
fn a_gap_that_an_outer_cache_made_is_continued_at_the_real_pace() {
    let taylor = Script::at([6, 7]).hook_with(1, Arc::new(TaylorConfig::default()), Guards::default());
    let mut session = rings(1, [(0..1, Script::at([3, 4]).hook(0)), (0..1, taylor)]).build().session();
    let got: Vec<f32> = (0..9).map(|index| linear(&mut session, index, 0.5)).collect();
    // The outer cache repeats step 2 at steps 3 and 4; the inner one extrapolates from steps 2 and 5, three
    // apart.
    assert_eq!(got, [1.0, 1.5, 2.0, 2.0, 2.0, 3.5, 4.0, 4.5, 5.0]);
}

/// A copy of a strategy whose example names the forecast.
fn with_taylor(info: &StrategyInfo) -> StrategyInfo {
    let table = |text: &str| {
        let text = format!("forecast = {{ type = \"taylor\", order = 2 }}\n{text}");
        &*Box::leak(text.into_boxed_str())
    };
    StrategyInfo { example: table(info.example), never: table(info.never), ..*info }
}

#[test]
fn every_strategy_keeps_every_rule_with_this_forecast() {
    for info in strategies() {
        testing::conformance(&with_taylor(info));
    }
}

#[test]
fn a_schedule_with_this_forecast_follows_an_even_run() {
    // Order 1 is exact where the model's output moves evenly; repeating the last output lags behind.
    let run = alone(12);
    let off = |forecast: &str| {
        let table = format!("[[cache]]\nstrategy = \"schedule\"\nskip = [3, 5, 6, 7, 9, 10]\n{forecast}");
        let mut session = session(&table, &simple("toy", 1), &run);
        let off = (0..12).map(|i| (linear(&mut session, i, 0.5) - (1.0 + 0.5 * i as f32)).abs());
        let off = off.fold(0.0, f32::max);
        assert_eq!(reused(&session, 0, Branch::Cond).len(), 6, "{forecast}");
        off
    };
    assert!(off("forecast = { type = \"taylor\" }") < 1e-6);
    assert!(off("") > 1.0);
}

#[test]
fn every_knob_of_the_forecast_changes_the_outputs() {
    // Latents that move, so that residual and output differ, and predictions that are not polynomial.
    // Noise levels at uneven distances, so that steps and noise levels differ.
    let sigmas: Vec<f64> = (0..=16).map(|i| 1.0 - f64::from(i * i) / 256.0).collect();
    let run = Trajectory::from_sigmas(&sigmas, &[Branch::Cond]);
    let wave = |index: usize, pace: f64| {
        let at = |i: usize| (pace * index as f64 + 0.4 * i as f64).sin() as f32;
        Tensor::from_vec((0..8).map(at).collect::<Vec<_>>(), (1, 2, 4), &Device::Cpu)
    };
    let outputs = |forecast: &str| {
        let table = "[[cache]]\nstrategy = \"schedule\"\nat = \"forward\"\nskip = [5, 6, 8, 9, 10, 13]\n";
        let mut session = session(&format!("{table}{forecast}\n"), &simple("toy", 1), &run);
        let all = run.steps().map(|step| {
            let index = step.index;
            let mut pass = session.pass(&step, Branch::Cond);
            values(&pass.forward(wave(index, 0.31).unwrap(), |_, _| wave(index, 0.17)).unwrap())
        });
        all.collect::<Vec<_>>()
    };
    let taylor = |keys: &str| format!("forecast = {{ type = \"taylor\"{keys} }}");
    let tables = [
        String::new(),
        "forecast = { type = \"output\" }".to_owned(),
        taylor(""),
        taylor(", order = 2"),
        taylor(", order = 3"),
        taylor(", of = \"output\""),
        taylor(", order = 2, dialect = \"diffusers\""),
        taylor(", order = 2, abscissa = \"sigma\""),
        taylor(", reach = 1"),
        taylor(", reach = 0.5"),
    ];
    let all: Vec<_> = tables.iter().map(|table| outputs(table)).collect();
    for (i, a) in all.iter().enumerate() {
        for (j, b) in all.iter().enumerate().take(i) {
            let far = a.iter().flatten().zip(b.iter().flatten()).any(|(a, b)| (a - b).abs() > 1e-3);
            assert!(far, "{:?} and {:?} give the same", tables[i], tables[j]);
        }
    }
}
