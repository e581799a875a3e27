//! Whole videos from picture, recording and pose: latents of every step, and frames.

use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use magcache_audio::read_mono;
use magcache_core::{HookRegistry, Trajectory};
use magcache_models::{
    checkpoint::WeightDtype,
    image::Picture,
    pipeline::{Denoiser, Generation, PoseVideo},
    sampler::{Sampler, SamplerKind, SchedulerConfig},
    wan::{
        self,
        s2v::{
            AudioEmbedding, ClipFrames, S2vDenoiser, S2vTransformer, S2vVideo, encode_picture, first_window,
        },
    },
    wav2vec2::{SAMPLE_RATE, Wav2Vec2Encoder, Wav2Vec2Processor},
};
use serde::Deserialize;

use super::strip::Strip;
use crate::verify::{case::Case, report::CaseReport, transformer::Network};

/// Tolerance of what is encoded or decoded from files.
const ENCODED: f64 = 1e-4;
/// How many times the reference's own rounding noise latents and frames may be off.
const NOISE_FACTOR: f64 = 19.0;
/// The least tolerance of latents.
const LATENTS: f64 = 2e-5;

#[derive(Deserialize)]
struct Recorded {
    runs: Vec<Run>,
    pipeline_config: Published,
}

#[derive(Deserialize)]
struct Published {
    motion_frames: usize,
}

#[derive(Deserialize)]
struct Run {
    name: String,
    args: Args,
    height: usize,
    width: usize,
    clips: Vec<Clip>,
    num_repeat: usize,
    frames_mean_abs: Vec<f64>,
    frames_fp32_vs_fp64_max_abs: f64,
}

#[derive(Deserialize)]
struct Args {
    num_repeat: Option<usize>,
    infer_frames: usize,
    seed: u64,
    image: String,
    pose: bool,
    init_first_frame: bool,
    shift: f64,
    sample_solver: String,
    sampling_steps: usize,
    guide_scale: f64,
}

#[derive(Deserialize)]
struct Clip {
    noise: String,
    latents: String,
    motion_latents: Option<String>,
    latents_fp32_vs_fp64_max_abs: f64,
}

pub(super) fn check(case: &Case, report: &mut CaseReport) -> Result<()> {
    let Recorded { runs, pipeline_config } = case.read()?;
    let network = Arc::new(<S2vTransformer as Network>::load(&case.folder, &case.on)?);
    for run in &runs {
        repeat(case, &network, run, pipeline_config.motion_frames, report)
            .with_context(|| format!("run {:?}", run.name))?;
    }
    Ok(())
}

/// What the clips of a run hear, from the recording.
fn audio(case: &Case, run: &Run) -> Result<AudioEmbedding> {
    let folder = case.folder.sub("wav2vec2-large-xlsr-53-english");
    let encoder = Wav2Vec2Encoder::open(&folder, &Device::Cpu, WeightDtype::Keep)?;
    let waveform = read_mono(&case.path().join("audio.wav"), SAMPLE_RATE as u32, None)?;
    let (frames, most) = (run.args.infer_frames, run.args.num_repeat);
    Ok(AudioEmbedding::encode(&Wav2Vec2Processor::read(&folder)?, &encoder, &waveform, frames, most)?)
}

fn repeat(
    case: &Case,
    network: &Arc<S2vTransformer>,
    run: &Run,
    motion_frames: usize,
    report: &mut CaseReport,
) -> Result<()> {
    let (name, args, device) = (&run.name, &run.args, Device::Cpu);
    let heard = audio(case, run)?;
    report.equal(name, "clips", &heard.clips(), &run.num_repeat.min(args.num_repeat.unwrap_or(usize::MAX)));
    let recorded = case.tensor("audio_emb")?;
    let recorded = recorded.narrow(3, 0, heard.values().dim(3)?)?;
    report.tensors(name, "audio_emb", heard.values(), &recorded, ENCODED)?;

    let kind = if args.sample_solver == "unipc" { SamplerKind::WanUniPc } else { SamplerKind::WanDpmPp };
    let sampler = Sampler::new(&SchedulerConfig::new(kind, args.shift), args.sampling_steps)?;
    let trajectory = sampler.trajectory(args.guide_scale > 1.0);
    let timesteps = Tensor::new(trajectory.timesteps.as_slice(), &device)?;
    let want = case.tensor(&format!("{name}.timesteps"))?.to_dtype(timesteps.dtype())?;
    report.tensors(name, "timesteps", &timesteps, &want, 0.0)?;

    let (size, folder) = ((run.height, run.width), case.folder.clone());
    let vae = wan::open_vae(&folder, &device)?;
    let picture = Picture::read(case.path().join(&args.image))?;
    let (reference, pixels) = encode_picture(&vae, &picture, None, size, &device)?;
    let want = case.tensor(&format!("{name}.ref_latents"))?;
    report.tensors(name, "ref_latents", &reference.squeeze(0)?, want, ENCODED)?;

    let frames = ClipFrames { infer_frames: args.infer_frames, motion_frames };
    let window = first_window(&frames, size, args.init_first_frame.then_some(&pixels), &device)?;
    let pose = args.pose.then(|| Strip::of(case)).transpose()?;
    let text = |name: &str| anyhow::Ok(case.tensor(name)?.unsqueeze(0)?);
    let video = S2vVideo {
        network: Arc::clone(network),
        vae: Box::new(move || Ok(wan::open_vae(&folder, &Device::Cpu)?)),
        tiling: None,
        text: text("context")?,
        negative: (args.guide_scale > 1.0).then(|| text("context_null")).transpose()?,
        guidance: args.guide_scale,
        // Features differ by little, which random weights multiply.
        audio: recorded.clone(),
        reference,
        pose: pose.map(|strip| Arc::new(strip) as Arc<dyn PoseVideo>),
        frames,
        start_from_ref: args.init_first_frame,
        seed: args.seed,
    };
    let mut clip = Arc::new(S2vDenoiser::new(Arc::new(video), 0, window)?);
    let mut shown = Vec::new();
    for (i, recorded) in run.clips.iter().enumerate() {
        if let Some(motion) = &recorded.motion_latents {
            let got = clip.before().squeeze(0)?;
            report.tensors(
                name,
                &format!("motion latents of clip {i}"),
                &got,
                case.tensor(motion)?,
                ENCODED,
            )?;
        }
        report.equal(
            name,
            &format!("motion of clip {i}"),
            &clip.has_motion(),
            &recorded.motion_latents.is_some(),
        );
        let ended = latents(case, &clip, &trajectory, &sampler, (name, i, recorded), report)?;
        let frames = clip.frames(&ended, &|| false)?;
        if i + 1 < run.clips.len() {
            clip = Arc::new(clip.followed_by(&frames)?);
        }
        shown.extend(frames);
    }
    let shown = Tensor::cat(&shown, 1)?;
    let tolerance = (NOISE_FACTOR * run.frames_fp32_vs_fp64_max_abs).max(ENCODED);
    let every = |n: usize| Tensor::from_iter((0..n as u32).step_by(8), &device);
    let some = shown.index_select(&every(run.height)?, 2)?.index_select(&every(run.width)?, 3)?;
    report.tensors(
        name,
        "frames",
        &some.contiguous()?,
        case.tensor(&format!("{name}.frames"))?,
        tolerance,
    )?;
    let means = shown.abs()?.mean((0, 2, 3))?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    report.numbers(name, "mean of every frame", &means, &run.frames_mean_abs, tolerance);
    Ok(())
}

/// Runs a clip from its recorded noise and compares the latents of every step; returns what it ends with.
fn latents(
    case: &Case,
    clip: &Arc<S2vDenoiser>,
    trajectory: &Trajectory,
    sampler: &Sampler,
    (run, index, recorded): (&str, usize, &Clip),
    report: &mut CaseReport,
) -> Result<Tensor> {
    let noise = case.tensor(&recorded.noise)?.unsqueeze(0)?;
    let registry = HookRegistry::builder(network_blocks(clip)).build();
    let denoiser = Arc::clone(clip) as Arc<dyn Denoiser>;
    let mut generation = Generation::new(denoiser, trajectory.clone(), sampler.clone(), &noise, &registry)?;
    let (frames, mut after) = (noise.dim(2)?, Vec::new());
    while !generation.is_done() {
        generation.step(&|| false)?;
        // The last one has what is decoded in front of it.
        let latents = generation.latents();
        after.push(latents.narrow(2, latents.dim(2)? - frames, frames)?.contiguous()?);
    }
    let tolerance = (NOISE_FACTOR * recorded.latents_fp32_vs_fp64_max_abs).max(LATENTS);
    // Behind every step, or behind the last one.
    let want = case.tensor(&recorded.latents)?;
    let after = after.split_off(after.len().saturating_sub(want.dim(0)?));
    let got = Tensor::cat(&after, 0)?;
    report.tensors(run, &format!("latents of clip {index}"), &got, want, tolerance)?;
    Ok(generation.latents().clone())
}

fn network_blocks(clip: &S2vDenoiser) -> usize {
    clip.network().wan_config().num_layers
}
