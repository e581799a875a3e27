//! What the flags of prompts, seeds and places mean.

use std::{io, path::Path};

use anyhow::Result;
use candle_core::{DType, Device};
use clap::ValueEnum;
use magcache_models::{
    checkpoint::{Ops, WeightDtype},
    pipeline::{LoadOptions, SamplingOptions},
};

use super::{Config, Job};
use crate::{
    args::{Dtype, Placement, Prompt, Runs},
    console::{bad_input, bad_input_with},
};

impl Prompt {
    pub(crate) fn set(&self, sampling: &mut SamplingOptions) -> Result<()> {
        sampling.prompt = prompt(self.prompt.as_deref())?.or(sampling.prompt.take());
        sampling.negative_prompt = self.negative_prompt.clone().or(sampling.negative_prompt.take());
        Ok(())
    }
}

/// The prompt as typed, or standard input for `-`.
pub(crate) fn prompt(typed: Option<&str>) -> Result<Option<String>> {
    match typed {
        Some("-") => match io::read_to_string(io::stdin()) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) => Err(bad_input(format!("cannot read the prompt from standard input: {error}"))),
        },
        typed => Ok(typed.map(str::to_owned)),
    }
}

/// The prompts in a file, one per line; empty lines and lines that begin with # are skipped.
pub(crate) fn read_prompts(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let message = format!("cannot read {}: {error}", path.display());
        bad_input_with(message, "a file with a prompt on each line")
    })?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let prompts: Vec<String> = lines.map(str::to_owned).collect();
    if prompts.is_empty() {
        return Err(bad_input_with(format!("{} has no prompts", path.display()), "one on each line"));
    }
    Ok(prompts)
}

impl Runs {
    /// The job for `config`, with everything that all runs share.
    pub(crate) fn job(&self, mut config: Config, options: LoadOptions) -> Result<Job> {
        let negative = &mut config.sampling.negative_prompt;
        *negative = self.negative_prompt.clone().or(negative.take());
        if self.seeds.is_empty() {
            return Err(bad_input_with("no seeds", "--seeds 0,1"));
        }
        Job::new(config, options)
    }

    /// The prompts of the flags and of the file, or the job's own.
    pub(crate) fn prompts(&self, job: &Job) -> Result<Vec<String>> {
        let mut prompts = self.prompt.clone();
        if let Some(path) = &self.prompts {
            prompts.extend(read_prompts(path)?);
        }
        if prompts.is_empty() {
            prompts.push(job.request.prompt.clone());
        }
        Ok(prompts)
    }
}

impl Placement {
    pub(crate) fn options(&self, ops: Ops) -> Result<LoadOptions> {
        let dtype = match self.dtype {
            Dtype::Auto => WeightDtype::Auto,
            Dtype::Keep => WeightDtype::Keep,
            Dtype::F32 => WeightDtype::Cast(DType::F32),
            Dtype::F16 => WeightDtype::Cast(DType::F16),
            Dtype::Bf16 => WeightDtype::Cast(DType::BF16),
        };
        let (device, offload) = (device(&self.device)?, self.offload);
        Ok(LoadOptions { device, dtype, offload, ops, ..LoadOptions::default() })
    }
}

/// The device that `--device` names.
pub(crate) fn device(name: &str) -> Result<Device> {
    let hint = if cfg!(feature = "cuda") {
        "is there an NVIDIA GPU, and a driver for it? --device cpu needs neither"
    } else {
        "this build computes on the CPU; NVIDIA GPUs need a build with --features cuda"
    };
    let (message, hint) = match name.split_once(':').unwrap_or((name, "0")) {
        ("cpu", _) => return Ok(Device::Cpu),
        // One stream: else each thread has its own, and none waits for what another one copies or sends.
        ("cuda", n) => match n.parse().map(Device::new_cuda_with_stream) {
            Ok(Ok(device)) => return Ok(device),
            Ok(Err(error)) => (format!("cannot use device {name:?}: {error}"), hint),
            Err(_) => (format!("device {name:?} has no number"), "--device cuda:0"),
        },
        ("metal", _) => (
            format!("cannot use device {name:?}: no build of this program computes with Metal"),
            "--device cpu",
        ),
        _ => (format!("unknown device {name:?}"), "--device cpu, or cuda:N"),
    };
    Err(bad_input_with(message, hint))
}

impl Dtype {
    /// As it is typed.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}
