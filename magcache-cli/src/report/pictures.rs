//! What the lanes show, side by side.

use std::{fs, io::Cursor, path::Path};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use image::{ImageFormat, RgbImage, imageops};
use magcache_core::error::count;
use magcache_models::image::Picture;

use super::html::{class, escape, name};
use crate::{
    compare::{
        Compared, answer,
        row::{Role, Row},
    },
    plan::Plan,
};

/// Frames of at most so many pixels a side are enlarged without smoothing.
const SMALL: usize = 128;

/// Pixels of the longer side of a given image, at most.
const GIVEN: u32 = 640;

/// How much the difference is amplified at first, and at most.
const GAIN: u32 = 8;
const MOST: u32 = 64;

pub(super) fn section(folder: &Path, plan: &Plan, compared: &Compared) -> Result<String> {
    let still = plan.request.frames == 1;
    let small = plan.request.width().max(plan.request.height()) <= SMALL;
    let lanes: String =
        compared.rows.iter().map(|row| lane(folder, plan, compared, row)).collect::<Result<_>>()?;
    let playback = if still { String::new() } else { playback(plan) };
    Ok(format!(
        "{playback}{difference}<div class=\"lanes{}\">{lanes}</div>",
        if small { " small" } else { "" },
        difference = difference(still),
    ))
}

/// The images that the run was given.
pub(super) fn given(plan: &Plan) -> Result<String> {
    let request = &plan.request;
    let what = if request.last_image.is_some() { "Given first frame" } else { "Given image" };
    let all = [(what, &request.image), ("Given last frame", &request.last_image)];
    let shown = all.into_iter().filter_map(|(what, picture)| Some((what, picture.as_ref()?)));
    let figures: String = shown.map(|(what, picture)| picture_of(what, picture)).collect::<Result<_>>()?;
    Ok(if figures.is_empty() { figures } else { format!("<div class=\"given\">{figures}</div>") })
}

fn picture_of(what: &str, picture: &Picture) -> Result<String> {
    let [width, height] = [picture.width(), picture.height()];
    let pixels = RgbImage::from_raw(width as u32, height as u32, picture.rgb8().to_vec());
    let pixels = pixels.with_context(|| format!("a picture of {width}x{height} has another size"))?;
    // It is shown small: a photograph need not be in the page as it is.
    let side = pixels.width().max(pixels.height());
    let shown = if side > GIVEN {
        imageops::thumbnail(&pixels, pixels.width() * GIVEN / side, pixels.height() * GIVEN / side)
    } else {
        pixels
    };
    Ok(format!(
        "<figure><img width=\"{width}\" height=\"{height}\" alt=\"{what}\" src=\"{}\"><figcaption>{what}, {width}×{height}</figcaption></figure>",
        still(&shown)?
    ))
}

/// The controls of a video; without a script the videos have their own.
fn playback(plan: &Plan) -> String {
    let (frames, fps) = (plan.request.frames, plan.fps);
    let last = frames.saturating_sub(1);
    format!(
        "<div class=\"bar\" id=\"playback\" role=\"group\" aria-label=\"Playback\" data-frames=\"{frames}\" data-fps=\"{fps}\" hidden>\
         <button type=\"button\" id=\"play\">Play</button>\
         <button type=\"button\" id=\"back\" aria-label=\"One frame back\">&#8722;1</button>\
         <button type=\"button\" id=\"on\" aria-label=\"One frame on\">+1</button>\
         <label>Speed <select id=\"speed\"><option value=\"0.25\">¼</option><option value=\"0.5\">½</option>\
         <option value=\"1\" selected>1</option><option value=\"2\">2</option></select></label>\
         <label class=\"grow\">Frame <input type=\"range\" id=\"frame\" min=\"0\" max=\"{last}\" step=\"1\" value=\"0\"></label>\
         <output id=\"at\" for=\"frame\">1 of {frames}</output></div>"
    )
}

fn difference(still: bool) -> String {
    let keys = if still {
        "<kbd>D</kbd> shows the difference."
    } else {
        "<kbd>Space</kbd> plays, <kbd>←</kbd> <kbd>→</kbd> go by a frame, <kbd>Home</kbd> <kbd>End</kbd> to the ends, <kbd>D</kbd> shows the difference."
    };
    format!(
        "<div class=\"bar\" id=\"differing\" role=\"group\" aria-label=\"Difference from dense\" hidden>\
         <label><input type=\"checkbox\" id=\"difference\"> Difference from dense</label>\
         <label class=\"grow\">Amplified <input type=\"range\" id=\"gain\" min=\"1\" max=\"{MOST}\" step=\"1\" value=\"{GAIN}\"></label>\
         <output id=\"by\" for=\"gain\">{GAIN}×</output></div><p class=\"keys\" hidden>{keys}</p>"
    )
}

fn lane(folder: &Path, plan: &Plan, compared: &Compared, row: &Row) -> Result<String> {
    let rows = &compared.rows;
    let path = folder.join(&row.file);
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let (label, data) = (escape(&row.name), STANDARD.encode(bytes));
    let [width, height] = plan.request.size;
    let size = format!("width=\"{width}\" height=\"{height}\"");
    let stills: Vec<String> = row.stills.iter().map(still).collect::<Result<_>>()?;
    let (shown, stills) = if plan.request.frames == 1 {
        (
            format!("<img class=\"shown\" {size} alt=\"{label}\" src=\"data:image/png;base64,{data}\">"),
            String::new(),
        )
    } else {
        let poster = stills.first().map_or(String::new(), |still| format!(" poster=\"{still}\""));
        let printed = ["first", "last"]
            .iter()
            .zip(&stills)
            .map(|(which, still)| format!("<img {size} alt=\"{label}, {which} frame\" src=\"{still}\">"));
        (
            format!(
                "<video class=\"shown\" {size} aria-label=\"{label}\" muted loop playsinline controls preload=\"auto\"{poster} \
                 src=\"data:video/mp4;base64,{data}\"></video>"
            ),
            format!("<div class=\"stills\">{}</div>", printed.collect::<String>()),
        )
    };
    Ok(format!(
        "<figure class=\"lane {}\" data-lane=\"{label}\"><div class=\"view\">{shown}\
         <canvas {size} role=\"img\" aria-label=\"{label}, difference from dense\" hidden></canvas></div>{stills}\
         <figcaption>{}<span class=\"fact\">{}</span></figcaption></figure>",
        class(rows, row),
        name(rows, row),
        caption(row),
    ))
}

/// What is most worth knowing about a lane.
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

/// A frame inside the page.
fn still(frame: &RgbImage) -> Result<String> {
    let mut bytes = Cursor::new(Vec::new());
    // Small frames as they are; large ones are there to be seen and printed, not measured.
    let large = frame.width().max(frame.height()) as usize > SMALL;
    let (format, kind) = if large { (ImageFormat::Jpeg, "jpeg") } else { (ImageFormat::Png, "png") };
    frame.write_to(&mut bytes, format).context("cannot encode a frame")?;
    Ok(format!("data:image/{kind};base64,{}", STANDARD.encode(bytes.into_inner())))
}
