//! Pictures of the embedded models against those that a CPU computes in f32 with plain operations.

use std::sync::Arc;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use magcache_models::{
    checkpoint::{Ops, WeightDtype},
    pipeline::{self, LoadOptions},
};

use super::{Findings, Setup, config, findings::Limit};
use crate::{
    args::Group,
    job::Job,
    lanes::{Scene, run_once},
    quality::compare_tensors,
};

/// The least PSNR, in dB: rounding is all that may differ. A picture has eight bits, 48 dB between
/// neighbours.
const TYPES: [(DType, f64); 3] = [(DType::F32, 60.0), (DType::BF16, 25.0), (DType::F16, 40.0)];

pub(super) fn check(setup: &Setup, findings: &mut Findings) -> Result<()> {
    let types = if setup.quick { &TYPES[..1] } else { &TYPES[..] };
    for model in pipeline::embedded() {
        let plain = LoadOptions { ops: Ops::Reference, ..of_type(DType::F32, Device::Cpu) };
        let want = frames(setup, model.name, plain)?;
        for (dtype, least) in types {
            setup.go_on()?;
            let options = LoadOptions { ops: setup.ops, ..of_type(*dtype, setup.device.clone()) };
            let psnr = compare_tensors(&frames(setup, model.name, options)?, &want, 1.0)?.psnr();
            let name = format!("{}, {}", model.name, dtype.as_str());
            let detail = "dB of the frames that differ, against plain operations on a CPU in f32";
            findings.judge(Group::Pictures, name, psnr, Limit::AtLeast(*least), detail);
        }
    }
    Ok(())
}

fn of_type(dtype: DType, device: Device) -> LoadOptions {
    LoadOptions { dtype: WeightDtype::Cast(dtype), device, ..LoadOptions::default() }
}

/// A few steps of a model's default request, `[frames, height, width, channels]` in 0..=1.
fn frames(setup: &Setup, model: &str, options: LoadOptions) -> Result<Tensor> {
    let job = Job::new(config(Some(model), if setup.quick { 2 } else { 4 })?, options)?;
    let (scene, _) = Scene::load(&job, job.request.clone(), &|_| {})?;
    let stop = || setup.interrupt.is_set();
    Ok(run_once(&scene, &Arc::default(), &stop)?.0.to_device(&Device::Cpu)?)
}
