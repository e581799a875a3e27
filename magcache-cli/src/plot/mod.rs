//! Charts over steps: SVG for pages and files, PNG for images.
//!
//! A [`Chart`] is data; both formats share one drawing routine. Text is measured with an embedded font, so
//! that the result is the same on every machine; an SVG refers to the reader's `sans-serif`.

mod chart;
mod draw;
mod steps;

use std::path::{Path, PathBuf};

use anyhow::Result;
use plotters::{
    backend::{BitMapBackend, SVGBackend},
    drawing::IntoDrawingArea,
};

use crate::{console::bad_input_with, media};

pub(crate) use chart::{Chart, Mark, PALETTE, Series, Shade, Style};

/// Pixels of a PNG per chart unit: sharp on high-density displays.
const DENSITY: u32 = 2;
/// Samples per PNG pixel in each direction: the bitmap backend does not antialias thick lines.
const SAMPLES: u32 = 2;

/// Why a chart cannot be drawn.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlotError {
    /// No series has a point with finite coordinates.
    #[error("the chart {0:?} has nothing to draw")]
    Empty(String),
    /// An error of the drawing library.
    #[error("cannot draw the chart: {0}")]
    Draw(String),
    #[error("cannot encode the chart: {0}")]
    Encode(#[from] image::ImageError),
}

/// CSS for charts inside a page: everything but the series takes the page's colours, light or dark. `plot`
/// selects the element around a chart.
pub(crate) fn style(plot: &str) -> String {
    let one = |(name, colour): (&str, String)| {
        format!(
            "{plot} [fill=\"{colour}\"]{{fill:var(--{name})}}{plot} [stroke=\"{colour}\"]{{stroke:var(--{name})}}"
        )
    };
    draw::papers().map(one).concat()
}

impl Chart {
    /// Renders an `<svg>` element for a page, `size` user units large.
    pub(crate) fn svg(&self) -> Result<String, PlotError> {
        let mut text = String::new();
        {
            let root = SVGBackend::with_string(&mut text, self.size.into()).into_drawing_area();
            draw::draw(self, &root, 1)?;
        }
        Ok(text)
    }

    /// Renders a PNG file of twice `size`.
    pub(crate) fn png(&self) -> Result<Vec<u8>, PlotError> {
        let scale = DENSITY * SAMPLES;
        let [width, height] = self.size.map(|pixels| pixels * scale);
        let mut pixels = vec![0; width as usize * height as usize * 3];
        {
            let root = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
            draw::draw(self, &root, scale)?;
        }
        let sampled = image::RgbImage::from_raw(width, height, pixels);
        let sampled = sampled.ok_or_else(|| PlotError::Draw("the bitmap has another size".to_owned()))?;
        let whole = image::imageops::thumbnail(&sampled, width / SAMPLES, height / SAMPLES);
        let mut file = std::io::Cursor::new(Vec::new());
        whole.write_to(&mut file, image::ImageFormat::Png)?;
        Ok(file.into_inner())
    }
}

/// The file of `--plot`, which is checked before the run and appears when it is complete.
#[derive(Debug)]
pub(crate) struct Target {
    path: PathBuf,
    png: bool,
}

impl Target {
    /// Checks the extension and that `path` can be written.
    pub(crate) fn prepare(path: &Path) -> Result<Self> {
        let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
        let png = match ending.as_deref() {
            Some("svg") => false,
            Some("png") => true,
            _ => {
                let message = format!("cannot draw {}: a chart ends in .svg or .png", path.display());
                return Err(bad_input_with(
                    message,
                    format!("--plot {}", path.with_extension("svg").display()),
                ));
            }
        };
        media::probe(path)?;
        Ok(Self { path: path.to_owned(), png })
    }

    /// Writes a chart in the format of the extension.
    pub(crate) fn write(&self, chart: &Chart) -> Result<PathBuf> {
        let bytes = if self.png { chart.png()? } else { chart.svg()?.into_bytes() };
        media::write_file(&self.path, &bytes)?;
        Ok(self.path.clone())
    }
}

#[cfg(test)]
mod tests;
