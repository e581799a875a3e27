//! The pictures of the lanes, side by side.

use std::{fs, io::Cursor, path::Path};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use image::{ImageFormat, RgbImage, imageops};
use magcache_core::error::count;
use magcache_models::image::Picture;
use maud::{Markup, PreEscaped, html};

use super::html::{class, name};
use crate::{
    compare::{
        Compared, answer,
        row::{Role, Row},
    },
    job::Job,
};

/// Frames with sides of at most this many pixels are enlarged without smoothing.
const SMALL: usize = 128;

/// Maximum longer side, in pixels, of a given image.
const GIVEN: u32 = 640;

/// Default and maximum amplification of the difference.
const GAIN: u32 = 8;
const MOST: u32 = 64;

pub(super) fn section(folder: &Path, compared: &Compared<'_>) -> Result<Markup> {
    let job = &compared.of.job;
    let lanes = lanes(folder, compared)?;
    Ok(html! { (controls(job.frames, job.fps)) (lanes) })
}

/// What plays all videos of a page, of at most so many frames, and shows differences; pictures have 1 frame.
pub(super) fn controls(frames: usize, fps: f64) -> Markup {
    let still = frames == 1;
    html! {
        @if !still { (playback(frames, fps)) }
        (difference(still))
    }
}

/// The pictures of the lanes, in `folder`.
pub(super) fn lanes(folder: &Path, compared: &Compared<'_>) -> Result<Markup> {
    let job = &compared.of.job;
    let small = job.request.width().max(job.request.height()) <= SMALL;
    let lanes: Vec<Markup> =
        compared.rows.iter().map(|row| lane(folder, compared, row)).collect::<Result<_>>()?;
    Ok(html! {
        div class=(if small { "lanes small" } else { "lanes" }) data-frames=(job.frames) data-fps=(job.fps) {
            @for lane in &lanes { (lane) }
        }
    })
}

pub(super) fn given(job: &Job) -> Result<Markup> {
    let request = &job.request;
    let what = if request.last_image.is_some() { "Given first frame" } else { "Given image" };
    let all = [(what, &request.image), ("Given last frame", &request.last_image)];
    let shown = all.into_iter().filter_map(|(what, picture)| Some((what, picture.as_ref()?)));
    let figures: Vec<Markup> =
        shown.map(|(what, picture)| picture_of(what, picture)).collect::<Result<_>>()?;
    Ok(html! { @if !figures.is_empty() { div class="given" { @for figure in &figures { (figure) } } } })
}

fn picture_of(what: &str, picture: &Picture) -> Result<Markup> {
    let [width, height] = [picture.width(), picture.height()];
    let pixels = RgbImage::from_raw(width as u32, height as u32, picture.rgb8().to_vec());
    let pixels = pixels.with_context(|| format!("a picture of {width}x{height} has another size"))?;
    // It is shown small, so the page need not contain a photograph at full size.
    let side = pixels.width().max(pixels.height());
    let shown = if side > GIVEN {
        imageops::thumbnail(&pixels, pixels.width() * GIVEN / side, pixels.height() * GIVEN / side)
    } else {
        pixels
    };
    let data = still(&shown)?;
    Ok(html! {
        figure {
            img width=(width) height=(height) alt=(what) src=(data);
            figcaption { (what) ", " (width) "×" (height) }
        }
    })
}

/// The controls of a video; without scripts, videos have their native controls.
fn playback(frames: usize, fps: f64) -> Markup {
    html! {
        div class="bar" id="playback" role="group" aria-label="Playback" data-frames=(frames) data-fps=(fps) hidden {
            button type="button" id="play" { "Play" }
            button type="button" id="back" aria-label="One frame back" { (PreEscaped("&#8722;1")) }
            button type="button" id="on" aria-label="One frame on" { "+1" }
            label {
                "Speed "
                select id="speed" {
                    option value="0.25" { "¼" }
                    option value="0.5" { "½" }
                    option value="1" selected { "1" }
                    option value="2" { "2" }
                }
            }
            label class="grow" {
                "Frame "
                input type="range" id="frame" min="0" max=(frames.saturating_sub(1)) step="1" value="0";
            }
            output id="at" for="frame" { "1 of " (frames) }
        }
    }
}

fn difference(still: bool) -> Markup {
    html! {
        div class="bar" id="differing" role="group" aria-label="Difference from dense" hidden {
            label { input type="checkbox" id="difference"; " Difference from dense" }
            label class="grow" {
                "Amplified " input type="range" id="gain" min="1" max=(MOST) step="1" value=(GAIN);
            }
            output id="by" for="gain" { (GAIN) "×" }
        }
        p class="keys" hidden {
            @if !still {
                kbd { "Space" } " plays, " kbd { "←" } " " kbd { "→" } " go by a frame, " kbd { "Home" } " "
                kbd { "End" } " to the ends, "
            }
            kbd { "D" } " shows the difference."
        }
    }
}

fn lane(folder: &Path, compared: &Compared<'_>, row: &Row) -> Result<Markup> {
    let (rows, request) = (&compared.rows, &compared.of.job.request);
    let path = folder.join(&row.file);
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let (label, data) = (&row.name, STANDARD.encode(bytes));
    let [width, height] = request.size;
    let stills: Vec<String> = row.stills.iter().map(still).collect::<Result<_>>()?;
    let image = compared.of.job.frames == 1;
    let shown = html! {
        @if image {
            img class="shown" width=(width) height=(height) alt=(label) src={ "data:image/png;base64," (data) };
        } @else {
            video class="shown" width=(width) height=(height) aria-label=(label) muted loop playsinline controls
                preload="auto" poster=[stills.first()] src={ "data:video/mp4;base64," (data) } {}
        }
    };
    Ok(html! {
        figure class={ "lane " (class(rows, row)) } data-lane=(label) {
            div class="view" {
                (shown)
                canvas width=(width) height=(height) role="img" aria-label={ (label) ", difference from dense" } hidden {}
            }
            @if !image {
                div class="stills" {
                    @for (which, still) in ["first", "last"].iter().zip(&stills) {
                        img width=(width) height=(height) alt={ (label) ", " (which) " frame" } src=(still);
                    }
                }
            }
            figcaption { (name(rows, row)) span class="fact" { (caption(row)) } }
        }
    })
}

fn caption(row: &Row) -> String {
    match row.role {
        Role::Dense => count(row.passes(), "pass"),
        Role::Baseline => format!("no cache, {} dB", answer::estimate(row.psnr, 1)),
        Role::Config => {
            let quality = answer::estimate(row.psnr, 1);
            let quality =
                if quality == "same" { "same as dense".to_owned() } else { format!("{quality} dB") };
            format!("{:.2}× faster, {quality}", row.transformer_speedup.median)
        }
    }
}

fn still(frame: &RgbImage) -> Result<String> {
    let mut bytes = Cursor::new(Vec::new());
    // Small frames are stored unchanged; large ones are for viewing and printing, not for measuring.
    let large = frame.width().max(frame.height()) as usize > SMALL;
    let (format, kind) = if large { (ImageFormat::Jpeg, "jpeg") } else { (ImageFormat::Png, "png") };
    frame.write_to(&mut bytes, format).context("cannot encode a frame")?;
    Ok(format!("data:image/{kind};base64,{}", STANDARD.encode(bytes.into_inner())))
}
