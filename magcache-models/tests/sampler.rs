//! Invariants of the samplers, and what they refuse.

use candle_core::{DType, Device, Tensor};
use magcache_core::hint::Hint;
use magcache_models::{
    checkpoint::{CheckpointError, Folder, config::read_file},
    flux::{flux1, flux2},
    sampler::{FinalSigma, Request, Sampler, SamplerError, SamplerKind, Schedule, SchedulerConfig, Shift},
};
use proptest::prelude::*;
use serde_json::{Value, json};

const CLASSES: [(&str, &str); 3] = [
    ("UniPCMultistepScheduler", "flow_shift"),
    ("DPMSolverMultistepScheduler", "flow_shift"),
    ("FlowMatchEulerDiscreteScheduler", "shift"),
];

/// A minimal configuration of a class, with one setting changed.
fn config(class: &str, key: &str, value: Value) -> Result<SchedulerConfig, SamplerError> {
    let mut settings = json!({
        "_class_name": class, "prediction_type": "flow_prediction", "use_flow_sigmas": true,
        "flow_shift": 3.0, "shift": 3.0,
    });
    settings[key] = value;
    SchedulerConfig::from_json(&settings.to_string())
}

fn refusal(class: &str, key: &str, value: Value) -> String {
    config(class, key, value).unwrap_err().to_string()
}

#[test]
fn unsupported_settings_name_key_value_and_what_is_needed() {
    let [unipc, dpmpp, euler] = CLASSES.map(|(class, _)| class);
    assert_eq!(
        refusal(unipc, "solver_type", json!("bh1")),
        "solver_type = \"bh1\" is not supported by the unipc sampler, which needs \"bh2\""
    );
    for (class, key, value) in [
        (unipc, "predict_x0", json!(false)),
        (unipc, "prediction_type", json!("epsilon")),
        (unipc, "use_karras_sigmas", json!(true)),
        (unipc, "use_flow_sigmas", json!(false)),
        (unipc, "lower_order_final", json!(false)),
        (unipc, "use_dynamic_shifting", json!(true)),
        (unipc, "thresholding", json!(true)),
        (dpmpp, "algorithm_type", json!("sde-dpmsolver++")),
        (dpmpp, "solver_type", json!("heun")),
        (dpmpp, "use_lu_lambdas", json!(true)),
        (dpmpp, "final_sigmas_type", json!("sigma_min")),
        (euler, "stochastic_sampling", json!(true)),
        (euler, "invert_sigmas", json!(true)),
        (euler, "use_beta_sigmas", json!(true)),
    ] {
        let message = refusal(class, key, value.clone());
        assert!(message.starts_with(&format!("{key} = {value} is not supported by the ")), "{message}");
    }
}

#[test]
fn settings_of_a_wrong_type_or_range_are_refused() {
    for (class, key) in CLASSES {
        for bad in [json!("3"), json!(-1.0), json!(0.0), Value::Null] {
            let message = refusal(class, key, bad.clone());
            assert!(message.starts_with(&format!("{key} = ")), "{class}: {message}");
        }
        assert!(refusal(class, "num_train_timesteps", json!(0)).contains("num_train_timesteps = 0"));
    }
    assert!(refusal(CLASSES[0].0, "solver_order", json!(4)).contains("1, 2 or 3"));
    assert!(refusal(CLASSES[0].0, "disable_corrector", json!([-1])).contains("a list of steps"));
    assert!(refusal(CLASSES[2].0, "shift_terminal", json!("x")).contains("a number or null"));
    assert!(refusal(CLASSES[2].0, "shift_terminal", json!(1.0)).contains("above 0 and below 1"));
    let dynamic =
        json!({"_class_name": CLASSES[2].0, "use_dynamic_shifting": true, "time_shift_type": "cubic"});
    let message = SchedulerConfig::from_json(&dynamic.to_string()).unwrap_err().to_string();
    assert_eq!(message, "time_shift_type = \"cubic\" is not valid: expected exponential or linear");
    assert!(refusal("DDIMScheduler", "x", json!(1)).starts_with("_class_name = \"DDIMScheduler\""));
    assert!(matches!(SchedulerConfig::from_json("{"), Err(SamplerError::Json(_))));
}

/// From `QwenImagePipeline` of diffusers 0.42.1, at 512x512 pixels and 8 steps.
#[test]
fn levels_are_stretched_to_the_terminal_one() {
    let json = json!({"_class_name": CLASSES[2].0, "use_dynamic_shifting": true, "max_image_seq_len": 8192,
        "max_shift": 0.9, "shift_terminal": 0.02});
    let config = SchedulerConfig::from_json(&json.to_string()).unwrap();
    let sigmas = |steps| {
        let request = Request::linear(&config, steps, config.mu(1024));
        Sampler::new(&config, request).unwrap().sigmas().to_vec()
    };
    let want =
        [1.0, 0.906_134_25, 0.801_358_8, 0.683_654_3, 0.550_470_23, 0.398_538_05, 0.223_599_14, 0.02, 0.0];
    for (got, want) in sigmas(8).iter().zip(want) {
        assert!((got - want).abs() < 1e-6, "{got} instead of {want}");
    }
    assert_eq!(sigmas(1), [1.0, 0.0], "a single level has no way to be stretched");
}

#[test]
fn a_file_is_read_and_its_errors_name_it() {
    const FILE: &str = "scheduler_config.json";
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::open(dir.path()).unwrap();
    let read = || read_file(&folder, FILE, SchedulerConfig::from_json, Hint::hint);
    assert!(matches!(read(), Err(CheckpointError::MissingFile { .. })));
    let class = r#""_class_name": "FlowMatchEulerDiscreteScheduler""#;
    std::fs::write(dir.path().join(FILE), format!(r#"{{{class}, "shift": -3}}"#)).unwrap();
    let place = dir.path().join(FILE).display().to_string();
    let message = read().unwrap_err().to_string();
    assert_eq!(message, format!("{place}: shift = -3 is not valid: expected a number above 0"));
    std::fs::write(dir.path().join(FILE), format!(r#"{{{class}, "shift": 3, "x": -Infinity}}"#)).unwrap();
    assert_eq!(read().unwrap().shift, Shift::Static(3.0));
}

#[test]
fn overrides_replace_solver_and_shift() {
    let wan = config(CLASSES[0].0, "solver_order", json!(3)).unwrap();
    assert_eq!(wan.clone().with_overrides(None, None).unwrap(), wan);
    let same = wan.clone().with_overrides(Some(SamplerKind::UniPc), Some(8.0)).unwrap();
    assert_eq!((same.solver_order, same.shift), (3, Shift::Static(8.0)));
    let euler = wan.clone().with_overrides(Some(SamplerKind::Euler), None).unwrap();
    assert_eq!(euler, SchedulerConfig::new(SamplerKind::Euler, 3.0));
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(wan.clone().with_overrides(None, Some(bad)).is_err(), "{bad}");
    }
    let flux = config(CLASSES[2].0, "use_dynamic_shifting", json!(true)).unwrap();
    let refused = flux.clone().with_overrides(Some(SamplerKind::UniPc), None).unwrap_err();
    assert!(refused.to_string().contains("not supported by the unipc sampler"), "{refused}");
    let fixed = flux.with_overrides(Some(SamplerKind::UniPc), Some(3.0)).unwrap();
    assert_eq!(fixed, SchedulerConfig::new(SamplerKind::UniPc, 3.0));
}

#[test]
fn requests_that_do_not_fit_are_refused() {
    let euler = SchedulerConfig::new(SamplerKind::Euler, 3.0);
    let message =
        |config: &SchedulerConfig, request: Request| Schedule::new(config, request).unwrap_err().to_string();
    assert_eq!(message(&euler, 0.into()), "steps = 0 is not valid: expected 1 to 1000 (num_train_timesteps)");
    assert!(message(&euler, usize::MAX.into()).contains("1 to 1000"));
    let with = |sigmas: &[f64]| Request { sigmas: Some(sigmas.to_vec()), ..2.into() };
    assert_eq!(message(&euler, with(&[1.0])), "got 1 explicit sigmas for 2 steps");
    assert!(message(&euler, with(&[1.0, f64::NAN])).starts_with("sigmas = NaN"));
    assert!(message(&euler, with(&[0.5, 1.0])).starts_with("the schedule does not decrease: sigma 0.75"));
    let unipc = SchedulerConfig::new(SamplerKind::UniPc, 3.0);
    assert!(message(&unipc, with(&[1.0, 0.5])).contains("own spacing, got 2 explicit sigmas"));
    assert!(message(&euler, Request { mu: Some(1.0), ..2.into() }).contains("no mu with a static shift"));
    let dynamic = SchedulerConfig { shift: Shift::Dynamic { exponential: false }, ..euler.clone() };
    assert!(matches!(Schedule::new(&dynamic, 2), Err(SamplerError::MissingMu)));
    for mu in [f64::NAN, -1.0] {
        assert!(message(&dynamic, Request { mu: Some(mu), ..2.into() }).contains("a number above 0"));
    }
    let last = SchedulerConfig { final_sigma: FinalSigma::Last, ..euler };
    assert!(message(&last, 2.into()).contains("final_sigmas_type"));
    let steep = SchedulerConfig::new(SamplerKind::UniPc, 1e9);
    let error = Schedule::new(&steep, 4).unwrap_err();
    assert!(error.hint().is_some_and(|hint| hint.starts_with("use fewer steps")), "{error}");
}

#[test]
fn a_boundary_splits_the_steps_and_must_lie_between_0_and_1() {
    let schedule = Schedule::new(&SchedulerConfig::new(SamplerKind::UniPc, 12.0), 40).unwrap();
    let steps = schedule.trajectory(Some(0.875)).unwrap();
    assert_eq!(steps.len(), 40);
    assert_eq!((steps[25].expert.0, steps[25].phase.clone()), (0, 0..26));
    assert_eq!((steps[26].expert.0, steps[26].phase.clone()), (1, 26..40));
    assert_eq!((steps[0].timestep, steps[3].sigma), (999.0, f64::from(schedule.sigmas[3])));
    assert_eq!(schedule.experts(None).unwrap(), [magcache_core::Phase::whole(40)]);
    assert_eq!(schedule.experts(Some(0.9999)).unwrap().len(), 1, "no step is above 999");
    for bad in [0.0, 1.0, -0.5, 875.0, f64::NAN] {
        assert!(matches!(schedule.experts(Some(bad)), Err(SamplerError::Boundary { .. })), "{bad}");
    }
}

fn vector(values: &[f32]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

/// The velocity of a toy model that is nonlinear in time.
fn velocity(t: f64, x: &Tensor) -> Tensor {
    ((x * 0.3).unwrap() + (t / 100.0).sin()).unwrap()
}

fn run(sampler: &mut Sampler, steps: std::ops::Range<usize>, mut x: Tensor) -> Tensor {
    for i in steps {
        x = sampler.step(i, &velocity(sampler.timesteps()[i], &x), &x).unwrap();
    }
    x
}

#[test]
fn a_stored_history_continues_a_run_exactly() {
    for kind in SamplerKind::ALL {
        let config = SchedulerConfig { solver_order: 3, ..SchedulerConfig::new(kind, 5.0) };
        let mut whole = Sampler::new(&config, 9).unwrap();
        let mut first = whole.clone();
        let want = run(&mut whole, 0..9, vector(&[1.0, -2.0])).to_vec1::<f32>().unwrap();
        let half = run(&mut first, 0..5, vector(&[1.0, -2.0]));
        let mut second = Sampler::new(&config, 9).unwrap();
        second.restore(first.history().clone());
        assert_eq!(run(&mut second, 5..9, half).to_vec1::<f32>().unwrap(), want, "{kind}");
    }
}

#[test]
fn a_run_may_start_late_and_then_goes_in_order() {
    for kind in SamplerKind::ALL {
        let mut sampler = Sampler::new(&SchedulerConfig::new(kind, 5.0), 6).unwrap();
        let x = run(&mut sampler, 2..4, vector(&[1.0]));
        for wrong in [3, 5, 6] {
            let err = sampler.step(wrong, &x, &x).unwrap_err().to_string();
            assert_eq!(err, format!("the sampler expects step 4 of 6, got step {wrong}"));
        }
        let err = sampler.step(4, &vector(&[1.0, 2.0]), &x).unwrap_err().to_string();
        assert_eq!(err, "the model output has shape [2], the sample [1]");
        let end = run(&mut sampler, 4..6, x).to_vec1::<f32>().unwrap();
        assert!(end[0].is_finite(), "{kind}: {end:?}");
    }
}

#[test]
fn half_precision_samples_keep_their_dtype_and_are_stepped_in_f32() {
    for kind in SamplerKind::ALL {
        let mut sampler = Sampler::new(&SchedulerConfig::new(kind, 3.0), 4).unwrap();
        let x = vector(&[1.0, -0.5]).to_dtype(DType::BF16).unwrap();
        let y = sampler.step(0, &x, &x).unwrap();
        assert_eq!(y.dtype(), DType::BF16);
        assert!(sampler.history().predictions.iter().all(|m| m.dtype() == DType::F32));
    }
}

proptest! {
    #[test]
    fn schedules_decrease_and_solvers_stay_finite(
        kind in prop::sample::select(SamplerKind::ALL.to_vec()),
        steps in 1_usize..=200,
        shift in 0.1_f64..20.0,
        solver_order in 1_usize..=3,
    ) {
        let config = SchedulerConfig { solver_order, ..SchedulerConfig::new(kind, shift) };
        let mut sampler = Sampler::new(&config, steps).unwrap();
        prop_assert_eq!(sampler.sigmas().len(), steps + 1);
        prop_assert_eq!(sampler.timesteps().len(), steps);
        prop_assert!(sampler.sigmas().windows(2).all(|pair| pair[0] > pair[1]));
        prop_assert!(sampler.timesteps().windows(2).all(|pair| pair[0] >= pair[1]));
        prop_assert_eq!(sampler.sigmas()[steps], 0.0);
        let end = run(&mut sampler, 0..steps, vector(&[1.0, -2.0])).to_vec1::<f32>().unwrap();
        prop_assert!(end.iter().all(|x| x.is_finite() && x.abs() < 1e3), "{:?}", end);
    }

    #[test]
    fn a_constant_velocity_is_integrated_exactly(
        kind in prop::sample::select(SamplerKind::ALL.to_vec()),
        steps in 1_usize..=50,
        shift in 0.5_f64..12.0,
        v in -2.0_f32..2.0,
    ) {
        // On a straight path every prediction of the clean sample is equal, so every order is exact.
        let mut sampler = Sampler::new(&SchedulerConfig::new(kind, shift), steps).unwrap();
        let start = f64::from(sampler.sigmas()[0]);
        let mut x = vector(&[1.0]);
        for i in 0..steps {
            x = sampler.step(i, &vector(&[v]), &x).unwrap();
        }
        let want = 1.0 - start * f64::from(v);
        prop_assert!((f64::from(x.to_vec1::<f32>().unwrap()[0]) - want).abs() < 1e-4);
    }

    #[test]
    fn no_request_panics(
        kind in prop::sample::select(SamplerKind::ALL.to_vec()),
        steps in any::<usize>(),
        shift in any::<f64>(),
        mu in proptest::option::of(any::<f64>()),
        boundary in any::<f64>(),
        tokens in any::<usize>(),
        dynamic in any::<bool>(),
    ) {
        let mut config = SchedulerConfig::new(kind, shift);
        if dynamic {
            config.shift = Shift::Dynamic { exponential: steps % 2 == 0 };
        }
        for steps in [steps, steps % 1200] {
            for request in [
                Request { mu, ..steps.into() },
                flux1::schedule(&config, steps, tokens),
                flux2::schedule(&config, steps, tokens),
            ] {
                if let Ok(schedule) = Schedule::new(&config, request) {
                    prop_assert!(schedule.trajectory(None).is_ok());
                    prop_assert_eq!(schedule.trajectory(Some(boundary)).is_ok(), boundary > 0.0 && boundary < 1.0);
                }
            }
        }
    }
}
