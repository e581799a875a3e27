//! The gallery: several models and prompts on one page, each strategy at the cost of half the steps.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result};
use magcache_core::CachePlan;
use magcache_models::{checkpoint::Ops, pipeline::LoadOptions};
use serde::Deserialize;
use serde_json::json;

use super::{PLANNER, comparison, planned};
use crate::{
    args::Sampling,
    compare::{answer, contender::Contender},
    console::Console,
    files::wrote,
    job::{Config, Job},
    report,
};

/// What is shown, in this order.
const SCENES: &str = include_str!("gallery.toml");

#[derive(Deserialize)]
struct Gallery {
    scene: Vec<Scene>,
}

/// One model and prompt.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scene {
    model: String,
    prompt: String,
    seed: u64,
    /// Steps that every lane computes, as nearly as its strategy can.
    computed: usize,
    /// The `[[cache]]` table of each strategy.
    lanes: BTreeMap<String, toml::Table>,
}

/// Runs every scene into a folder of its own inside `folder`, and writes the page that shows them all.
pub(super) fn run(folder: &Path, ops: Ops, out: &Console) -> Result<()> {
    let Gallery { scene: scenes } = toml::from_str(SCENES).context("the gallery's scenes")?;
    let mut page = report::Gallery::default();
    let (mut text, mut documents, mut outputs) = (String::new(), Vec::new(), Vec::new());
    for (i, scene) in scenes.iter().enumerate() {
        let job = scene.job(ops, out)?;
        let lanes = scene.lanes(&job)?;
        let name = format!("{}-{}", i + 1, scene.model);
        let place = format!("{} of {}, {}: ", i + 1, scenes.len(), scene.model);
        let comparison = comparison(job, lanes, true, place, folder.join(&name), out)?;
        let compared = report::run(&comparison, out)?;
        page.add(&compared, &name)?;
        text += &format!("{}: {}\n{}\n", scene.model, scene.prompt, answer::table(&compared));
        documents.push(answer::document(&compared));
        outputs.extend(compared.outputs);
    }
    outputs.push(page.write(folder, &documents)?);
    let root = outputs.last().map(std::slice::from_ref).unwrap_or_default();
    let text = text + answer::UNITS + &wrote(root);
    out.answer(&text, &json!({ "scenes": documents, "outputs": outputs }));
    Ok(())
}

impl Scene {
    fn job(&self, ops: Ops, out: &Console) -> Result<Job> {
        let flags = Sampling { model: Some(self.model.clone()), ..Sampling::default() };
        let mut config = Config::of(&flags, out)?;
        config.sampling.prompt = Some(self.prompt.clone());
        config.sampling.seed = Some(self.seed);
        Job::new(config, LoadOptions { ops, ..LoadOptions::default() })
    }

    fn lanes(&self, job: &Job) -> Result<Vec<Contender>> {
        let planned = planned(job, self.computed).with_context(|| format!("{PLANNER} of {}", self.model))?;
        let lane = |(name, table): (&String, &toml::Table)| {
            let plan = CachePlan::from_tables(vec![table.clone()], job.config.residuals.clone())?;
            Ok(Contender::new(name.clone(), plan, job))
        };
        std::iter::once(Ok(planned)).chain(self.lanes.iter().map(lane)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scene_has_every_strategy_of_the_demo() {
        let Gallery { scene: scenes } = toml::from_str(SCENES).unwrap();
        assert!(scenes.len() >= 4);
        for scene in scenes {
            let names: Vec<&str> = scene.lanes.keys().map(String::as_str).collect();
            let mut shown = magcache_strategies::SHOWN.to_vec();
            shown.sort_unstable();
            assert_eq!(names, shown, "{}", scene.model);
        }
    }
}
