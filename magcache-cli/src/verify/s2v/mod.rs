//! Speech to video.

mod audio_encoder;
mod geometry;
mod modules;
mod recording;
mod transformer;

use anyhow::Result;
use magcache_models::wan::s2v::S2vTransformer;

use super::{case::Case, report::CaseReport};

pub(super) fn check(case: &Case, report: &mut CaseReport) -> Result<()> {
    match case.name() {
        "audio_modules" => modules::audio(case, report),
        "motion_modules" => modules::motion(case, report),
        "transformer" => super::transformer::calls::<S2vTransformer>(case, report),
        "audio_encoder" => audio_encoder::check(case, report),
        "geometry" => geometry::check(case, report),
        other => {
            report.skip(format!("this build knows no cases of {other:?}"));
            Ok(())
        }
    }
}
