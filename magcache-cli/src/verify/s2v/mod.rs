//! Speech to video.

mod audio_encoder;
mod geometry;
mod modules;
mod pipeline;
mod strip;
mod transformer;

use anyhow::Result;
use magcache_models::wan::s2v::S2vTransformer;

use super::{case::Case, report::CaseReport};

pub(super) fn check(case: &Case, report: &mut CaseReport) -> Result<()> {
    match case.name() {
        "cache_e2e" => super::cache_e2e::s2v::check(case, report),
        "audio_modules" => modules::audio(case, report),
        "motion_modules" => modules::motion(case, report),
        "transformer" => super::transformer::calls::<S2vTransformer>(case, report),
        "audio_encoder" => audio_encoder::check(case, report),
        "pipeline" => {
            geometry::check(case, report)?;
            pipeline::check(case, report)
        }
        other => {
            report.skip(format!("this build knows no cases of {other:?}"));
            Ok(())
        }
    }
}
