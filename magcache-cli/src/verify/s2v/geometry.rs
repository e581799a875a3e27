//! Sizes, pictures and pose frames, and the frames and latents of clips.

use anyhow::{Context, Result};
use candle_core::{DType, Device, IndexOp, Tensor};
use magcache_models::{
    image::Picture,
    pipeline::PoseVideo,
    wan::s2v::{ClipFrames, Fit, PoseStep, pose_pixels, video_size},
};
use serde::Deserialize;

use super::strip::Strip;
use crate::verify::{case::Case, report::CaseReport};

/// How much the pixels of a pose frame may differ: two f32 filters.
const SCALED: f64 = 2e-6;

#[derive(Deserialize)]
struct Recorded {
    tables: Tables,
    runs: Vec<Run>,
    pipeline_config: PipelineConfig,
}

#[derive(Deserialize)]
struct Tables {
    size: Vec<Size>,
    crop: Vec<Crop>,
    pose_frames: Vec<PoseFrames>,
    frames: Vec<Counts>,
}

#[derive(Deserialize)]
struct Size {
    height: usize,
    width: usize,
    area: usize,
    out: (usize, usize),
}

#[derive(Deserialize)]
struct Crop {
    height: usize,
    width: usize,
    out: (usize, usize),
    #[serde(flatten)]
    fit: Fitted,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Fitted {
    resized: (usize, usize),
    pad_left_top_right_bottom: [usize; 4],
    crop_top_left: (usize, usize),
}

#[derive(Deserialize)]
struct PoseFrames {
    fps: f64,
    total: usize,
    wanted: usize,
    step: usize,
    read: usize,
    last: usize,
}

#[derive(Deserialize)]
struct Counts {
    infer_frames: usize,
    motion_frames: usize,
    latent_motion_frames: usize,
    latent_frames: usize,
    first_clip: usize,
    later_clips: usize,
}

#[derive(Deserialize)]
struct PipelineConfig {
    motion_frames: usize,
}

#[derive(Deserialize)]
struct Run {
    name: String,
    args: Args,
    height: usize,
    width: usize,
    picture: Fitted,
    clips: Vec<Clip>,
}

#[derive(Deserialize)]
struct Args {
    image: String,
    pose: bool,
    init_first_frame: bool,
    max_area: usize,
    infer_frames: usize,
}

#[derive(Deserialize)]
struct Clip {
    drop_motion_frames: bool,
    motion_frames: (usize, usize),
    frames: usize,
    decoded_latents: usize,
}

impl From<Fit> for Fitted {
    fn from(fit: Fit) -> Self {
        Self { resized: fit.resized, pad_left_top_right_bottom: fit.padding, crop_top_left: fit.crop }
    }
}

/// The tables and the geometry of the runs.
pub(super) fn check(case: &Case, report: &mut CaseReport) -> Result<()> {
    let Recorded { tables, runs, pipeline_config } = case.read()?;
    rows(&tables, report);
    for run in &runs {
        let name = &run.name;
        clips(run, pipeline_config.motion_frames, report);
        picture(case, run, report).with_context(|| format!("run {name:?}"))?;
        if run.args.pose {
            pose(case, run, report).with_context(|| format!("run {name:?}"))?;
        }
    }
    Ok(())
}

fn rows(tables: &Tables, report: &mut CaseReport) {
    let sizes = tables.size.iter().map(|row| video_size(row.height, row.width, row.area));
    each(report, "sizes", sizes.zip(tables.size.iter().map(|row| Some(row.out))));
    let fits = tables.crop.iter().map(|row| Fitted::from(Fit::new(row.height, row.width, row.out)));
    each(
        report,
        "crops",
        fits.zip(tables.crop.iter().map(|row| &row.fit)).map(|(a, b)| (format!("{a:?}"), format!("{b:?}"))),
    );
    let poses = tables.pose_frames.iter().map(|row| {
        let step = PoseStep::new(row.fps);
        let frames = step.frames(row.total, row.wanted);
        ((step.get(), frames.len(), frames.last()), (row.step, row.read, Some(row.last)))
    });
    each(report, "pose frames", poses);
    let frames = tables.frames.iter().map(|row| {
        let frames = ClipFrames { infer_frames: row.infer_frames, motion_frames: row.motion_frames };
        (
            [frames.motion_latents(), frames.latents(), frames.of_clip(0, false), frames.of_clip(1, false)],
            [row.latent_motion_frames, row.latent_frames, row.first_clip, row.later_clips],
        )
    });
    each(report, "frames", frames);
}

/// Compares pairs of values, ours first.
fn each<T: PartialEq + std::fmt::Debug>(
    report: &mut CaseReport,
    output: &str,
    pairs: impl Iterator<Item = (T, T)>,
) {
    let (mut of, mut wrong) = (0, Vec::new());
    for (row, (got, want)) in pairs.enumerate() {
        of += 1;
        if got != want {
            wrong.push(format!("row {row}: got {got:?}, expected {want:?}"));
        }
    }
    report.count("tables", output, wrong.len(), of, wrong.first().cloned());
}

fn clips(run: &Run, motion_frames: usize, report: &mut CaseReport) {
    let frames = ClipFrames { infer_frames: run.args.infer_frames, motion_frames };
    let from_picture = run.args.init_first_frame;
    for (i, clip) in run.clips.iter().enumerate() {
        let without = ClipFrames::is_without_motion(i, from_picture);
        let decoded = frames.decoded_latents(without);
        let kept = frames.kept(4 * (decoded - 1) + 1, without).len();
        let got = (without, (motion_frames, frames.motion_latents()), kept, decoded);
        let want = (clip.drop_motion_frames, clip.motion_frames, clip.frames, clip.decoded_latents);
        report.equal(&run.name, &format!("clip {i}"), &got, &want);
        report.equal(&run.name, &format!("clip {i}, frames"), &frames.of_clip(i, from_picture), &clip.frames);
    }
}

fn picture(case: &Case, run: &Run, report: &mut CaseReport) -> Result<()> {
    let image = Picture::read(case.path().join(&run.args.image))?;
    let size = video_size(image.height(), image.width(), run.args.max_area);
    report.equal(&run.name, "size", &size, &Some((run.height, run.width)));
    let fit = Fit::new(image.height(), image.width(), (run.height, run.width));
    report.equal(&run.name, "picture", &Fitted::from(fit), &run.picture);
    let reference = case.path().join(format!("{}_reference.png", run.name));
    if reference.exists() {
        let bytes = |picture: &Picture| picture.rgb8().iter().copied().map(f64::from).collect::<Vec<_>>();
        let (got, want) = (bytes(&fit.picture(&image)?), bytes(&Picture::read(reference)?));
        report.numbers(&run.name, "pixels of the picture", &got, &want, 0.0);
    }
    Ok(())
}

fn pose(case: &Case, run: &Run, report: &mut CaseReport) -> Result<()> {
    let strip = Strip::of(case)?;
    let wanted = run.args.infer_frames * run.clips.len();
    let wanted: Vec<usize> = PoseStep::new(strip.fps()).frames(strip.frames(), wanted).collect();
    let frames = strip.read(&wanted).map_err(anyhow::Error::from_boxed)?;
    let mut clips = frames.chunks(run.args.infer_frames);
    let want = case.tensor(&format!("{}.pose_pixels", run.name))?;
    let mut got = Vec::new();
    for _ in &run.clips {
        let frames = clips.next().unwrap_or_default();
        let pixels = pose_pixels(frames, run.args.infer_frames, (run.height, run.width), &Device::Cpu)?;
        // Recorded are every second frame, and every eighth row and column.
        let every =
            |n: usize, step: u32| Tensor::from_iter((0..n as u32).step_by(step as usize), &Device::Cpu);
        let pixels = pixels.index_select(&every(pixels.dim(2)?, 2)?, 2)?;
        let pixels = pixels.index_select(&every(run.height, 8)?, 3)?;
        got.push(pixels.index_select(&every(run.width, 8)?, 4)?.i(0)?.to_dtype(DType::F32)?);
    }
    report.tensors(&run.name, "pixels of the pose video", &Tensor::stack(&got, 0)?, want, SCALED)
}
