//! Speech to video.

mod audio_encoder;
mod geometry;
mod recording;

use anyhow::Result;

use super::{case::Case, report::CaseReport};

pub(super) fn check(case: &Case, report: &mut CaseReport) -> Result<()> {
    match case.name() {
        "audio_encoder" => audio_encoder::check(case, report),
        "geometry" => geometry::check(case, report),
        other => {
            report.skip(format!("this build knows no cases of {other:?}"));
            Ok(())
        }
    }
}
