//! The output file of `--plot`.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::Chart;
use crate::{console::bad_input_with, media};

/// A file that is checked before the run and appears when it is complete.
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
