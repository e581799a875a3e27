//! The samplers against recorded runs of diffusers and of the Wan repository.
//!
//! The fake model of every recording is `0.3 * x + sin(t / 100) + 0.1 * noise_i`. Sigmas and timesteps are equal;
//! trajectories differ by the rounding of a few f32 operations.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use magcache_models::sampler::{
    Sampler, SamplerKind, Schedule, SchedulerConfig,
    replay::{reference_call, replay},
    schedule::{flux_mu, flux2_mu},
};
use serde_json::Value;

const TOLERANCE: f32 = 5e-6;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

struct Case {
    name: String,
    calls: Vec<Value>,
    meta: Value,
    scheduler_config: Option<String>,
    tensors: HashMap<String, Tensor>,
}

impl Case {
    fn open(dir: &Path) -> Self {
        let meta = json(&dir.join("case.json"));
        Self {
            name: meta["case"].as_str().unwrap().to_owned(),
            calls: meta["calls"].as_array().unwrap().clone(),
            scheduler_config: fs::read_to_string(dir.join("scheduler_config.json")).ok(),
            tensors: candle_core::safetensors::load(dir.join("golden.safetensors"), &Device::Cpu).unwrap(),
            meta,
        }
    }

    fn sampler(&self, call: &Value) -> Sampler {
        let (config, request) =
            reference_call(&self.name, &call["args"], self.scheduler_config.as_deref()).unwrap();
        Sampler::new(&config, request).unwrap()
    }

    fn tensor(&self, call: &Value, name: &str) -> &Tensor {
        &self.tensors[&format!("{}.{name}", call["name"].as_str().unwrap())]
    }

    fn numbers(&self, call: &Value, name: &str) -> Vec<f64> {
        self.tensor(call, name).to_dtype(DType::F64).unwrap().to_vec1().unwrap()
    }
}

/// Every case of the folder that records calls.
fn cases(root: &Path) -> Vec<Case> {
    let mut dirs: Vec<_> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    dirs.retain(|dir| dir.join("case.json").exists());
    dirs.sort();
    dirs.iter().map(|dir| Case::open(dir)).collect()
}

fn max_abs(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

/// Compares every call below `root`; gives the number of calls.
fn check_all(root: &Path) -> usize {
    let mut calls = 0;
    for case in cases(root) {
        for call in &case.calls {
            let what = format!("{}/{}", case.name, call["name"]);
            let mut sampler = case.sampler(call);
            let sigmas: Vec<f64> = sampler.sigmas().iter().map(|&s| f64::from(s)).collect();
            assert_eq!(sigmas, case.numbers(call, "sigmas"), "{what}: sigmas");
            assert_eq!(sampler.timesteps(), case.numbers(call, "timesteps"), "{what}: timesteps");

            let noise = case.tensor(call, "noise");
            let model =
                |i: usize, t: f64, x: &Tensor| ((x * 0.3)? + (t / 100.0).sin())? + (noise.get(i)? * 0.1)?;
            let got = replay(&mut sampler, case.tensor(call, "latents0"), model).unwrap();
            let difference = max_abs(&Tensor::stack(&got, 0).unwrap(), case.tensor(call, "trajectory"));
            assert!(difference <= TOLERANCE, "{what}: trajectory differs by {difference:e}");
            calls += 1;
        }
    }
    calls
}

#[test]
fn every_recorded_run_is_reproduced() {
    assert_eq!(check_all(&fixtures().join("golden/schedulers")), 66);
}

#[test]
fn further_orders_and_shifts_are_reproduced() {
    assert_eq!(check_all(&fixtures().join("samplers")), 16);
}

#[test]
fn flux_mu_equals_the_pipelines() {
    let cases = cases(&fixtures().join("golden/schedulers"));
    let case = cases.iter().find(|case| case.name == "flow_euler_flux2").unwrap();
    let config = SchedulerConfig::from_json(case.scheduler_config.as_deref().unwrap()).unwrap();
    for (key, want) in case.meta["mu_table"].as_object().unwrap() {
        let (seq, steps) = key.trim_start_matches("seq").split_once("_n").unwrap();
        let got = flux2_mu(seq.parse().unwrap(), steps.parse().unwrap());
        assert!((got - want.as_f64().unwrap()).abs() < 1e-15, "{key}: {got}");
    }
    for (key, want) in case.meta["calculate_shift_table"].as_object().unwrap() {
        let got = flux_mu(&config, key.trim_start_matches("seq").parse().unwrap());
        assert!((got - want.as_f64().unwrap()).abs() < 1e-15, "{key}: {got}");
    }
}

#[test]
fn the_boundary_between_experts_is_where_the_reference_has_it() {
    let table = json(&fixtures().join("golden/schedulers/wan22_boundary/boundary.json"));
    let mut compared = 0;
    for row in table["rows"].as_array().unwrap() {
        let (shift, ratio) = (row["flow_shift"].as_f64().unwrap(), row["boundary_ratio"].as_f64().unwrap());
        for (name, kind) in [
            ("diffusers_unipc", SamplerKind::UniPc),
            ("diffusers_flow_match_euler", SamplerKind::Euler),
            ("diffusers_dpmpp", SamplerKind::DpmPp),
            ("wan_official_unipc", SamplerKind::WanUniPc),
            ("wan_official_dpmpp", SamplerKind::WanDpmPp),
        ] {
            let want = row["high_noise_steps"][name].as_array().unwrap();
            for (steps, want) in row["steps"].as_array().unwrap().iter().zip(want) {
                let steps = steps.as_u64().unwrap() as usize;
                let schedule = Schedule::new(&SchedulerConfig::new(kind, shift), steps).unwrap();
                let phases = schedule.experts(Some(ratio)).unwrap();
                let high: usize = phases.iter().filter(|p| p.expert.0 == 0).map(|p| p.steps.len()).sum();
                assert_eq!(
                    high as u64,
                    want.as_u64().unwrap(),
                    "{name}, shift {shift}, {steps} steps, {ratio}"
                );
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 8 * 5 * 47);
}
