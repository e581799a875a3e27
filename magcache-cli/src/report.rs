//! `report.html`: one page that needs no network, with the videos or images side by side.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{cmd::demo::Row, media, plan::Plan, summary};

const STYLE: &str = "
:root { color-scheme: light dark; --line: #8884; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 70rem; }
.lanes { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: 1rem; }
figure { margin: 0; } video, img { width: 100%; image-rendering: pixelated; background: #000; }
.table { overflow-x: auto; } table { border-collapse: collapse; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.strip { font-family: ui-monospace, monospace; overflow-x: auto; white-space: pre; }
pre { overflow-x: auto; padding: .7rem; border: 1px solid var(--line); }
@media print { button, input { display: none; } }
";

/// Plays every video at the same moment; space starts and stops, arrows go by a frame.
const SCRIPT: &str = "
const videos = [...document.querySelectorAll('video')], bar = document.querySelector('#at'), play = document.querySelector('#play');
const all = f => videos.forEach(f), first = videos[0];
const toggle = () => first.paused ? all(v => { v.currentTime = first.currentTime; v.play(); }) : all(v => v.pause());
const seek = t => all(v => { v.pause(); v.currentTime = Math.max(0, Math.min(first.duration || 0, t)); });
play.onclick = toggle;
bar.oninput = () => seek(bar.value * (first.duration || 0));
first.ontimeupdate = () => { bar.value = first.currentTime / (first.duration || 1); };
first.onplay = () => play.textContent = 'Pause'; first.onpause = () => play.textContent = 'Play';
document.onkeydown = e => {
  if (e.target !== document.body) return;
  if (e.key === ' ') { e.preventDefault(); toggle(); }
  if (e.key === 'ArrowRight') seek(first.currentTime + FRAME);
  if (e.key === 'ArrowLeft') seek(first.currentTime - FRAME);
};
";

/// Writes the page into `folder`, beside what it shows.
pub(crate) fn write(folder: &Path, plan: &Plan, rows: &[Row]) -> Result<PathBuf> {
    let path = folder.join("report.html");
    media::write_file(&path, page(plan, rows)?.as_bytes())?;
    Ok(path)
}

fn page(plan: &Plan, rows: &[Row]) -> Result<String> {
    let mut out = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>\
         <title>magcache</title><style>{STYLE}</style><h1>Dense against cached</h1><p>{} – {} steps, seed {}.</p>",
        escape(&plan.request.prompt),
        plan.request.steps,
        plan.request.seed
    );
    let still = plan.request.frames == 1;
    if !still {
        out += "<p><button id=play>Play</button> <input id=at type=range min=0 max=1 step=any value=0 aria-label=position></p>";
    }
    out += "<div class=lanes>";
    for row in rows {
        let bytes = fs::read(&row.output).with_context(|| format!("cannot read {}", row.output.display()))?;
        let (name, data) = (escape(&row.name), STANDARD.encode(bytes));
        if still {
            write!(out, "<figure><img alt='{name}' src='data:image/png;base64,{data}'>")?;
        } else {
            write!(out, "<figure><video muted loop playsinline src='data:video/mp4;base64,{data}'></video>")?;
        }
        write!(out, "<figcaption>{name}</figcaption></figure>")?;
    }
    out += "</div><h2>Numbers</h2><div class=table><table><tr><th>strategy<th>computed<th>skipped<th>ceiling<th>transformer<th>whole run<th>PSNR<th>SSIM<th>cache<th>seconds";
    for r in rows {
        write!(
            out,
            "<tr><td>{}<td>{}<td>{}<td>{}<td>{:.3}×<td>{:.3}×<td>{}<td>{}<td>{}<td>{:.2}",
            escape(&r.name),
            r.computed,
            r.skipped,
            r.ceiling.map_or("–".to_owned(), |c| format!("{c:.3}×")),
            r.transformer_speedup,
            r.speedup,
            r.psnr.map_or("–".to_owned(), |p| if p.is_finite() {
                format!("{p:.2} dB")
            } else {
                "same".to_owned()
            }),
            r.ssim.map_or("–".to_owned(), |s| format!("{s:.4}")),
            if r.cache_bytes == 0 { "–".to_owned() } else { summary::bytes(r.cache_bytes) },
            r.seconds
        )?;
    }
    out += "</table></div><p>Computed and skipped are passes of the network over all guidance branches. The ceiling is what \
            the transformer's time could gain if a skipped pass cost nothing. The runs took turns, step by step; loading \
            is not counted. PSNR and SSIM are against the dense run.</p><h2>Schedules</h2><p># computed, . skipped, | where the second expert begins</p>";
    for r in rows {
        for (branch, strip) in &r.strips {
            writeln!(out, "<div class=strip>{:<10} {:>7} {strip}</div>", escape(&r.name), escape(branch))?;
        }
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    write!(
        out,
        "<h2>Configuration</h2><pre>{}</pre><p>magcache {}, {} {}, {cores} threads</p>",
        escape(&plan.to_toml()?),
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
    )?;
    if !still {
        write!(out, "<script>const FRAME = 1 / {};{SCRIPT}</script>", plan.fps)?;
    }
    Ok(out)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}
