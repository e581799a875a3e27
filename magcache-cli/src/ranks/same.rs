//! Whether all ranks are about to run the same.

use std::hash::{DefaultHasher, Hash, Hasher};

use anyhow::Result;
use magcache_core::{HookRegistry, group::GroupError};
use magcache_models::ranks::{Ranks, nccl_version};

use super::way;
use crate::{calibration::judge::SMALL, console::Console, job::Job, resume::Identity, summary};

/// Compares what the ranks are about to run, key by key, before anything is loaded.
///
/// # Errors
/// A key that differs, with both values and both ranks.
pub(crate) fn check_same(
    ranks: &Ranks,
    job: &Job,
    mut keys: Identity,
    hooks: &[&HookRegistry],
) -> Result<()> {
    let world = ranks.world();
    // Each has its own device, and files may be copies.
    keys.retain(|key, _| key != "device");
    for value in keys.values_mut() {
        if let Some((size, _)) = value.split_once(", changed at") {
            *value = size.to_owned();
        }
    }
    // Files of the same name and size may still differ.
    let mut hasher = DefaultHasher::new();
    format!("{hooks:?}").hash(&mut hasher);
    keys.insert("the caches as they were built".to_owned(), format!("{:016x}", hasher.finish()));
    keys.insert("the weights are divided".to_owned(), job.shard.to_string());
    if job.pipeline.weight_bytes()? <= SMALL {
        keys.insert("the weights' SHA-256".to_owned(), job.pipeline.fingerprint()?);
    }
    let names = keys.keys().cloned().collect::<Vec<_>>().join(", ");
    world.agree("the keys of the run", &names)?;
    let all = keys.iter().map(|(key, value)| format!("{key} = {value}")).collect::<Vec<_>>().join("\n");
    match world.agree("the run", &all) {
        Err(GroupError::Differ { ranks, values: [here, there], .. }) => {
            let differ = here.lines().zip(there.lines()).find(|(here, there)| here != there);
            let (here, there) = differ.unwrap_or_default();
            let (key, here) = here.split_once(" = ").unwrap_or_default();
            let there = there.split_once(" = ").map_or("", |(_, value)| value);
            let values = [here, there].map(str::to_owned);
            Err(GroupError::Differ { about: key.to_owned(), ranks, values }.into())
        }
        other => Ok(other?),
    }
}

/// Says how the ranks divide the run.
pub(crate) fn announce(ranks: &Ranks, job: &Job, out: &Console) -> Result<()> {
    let layout = ranks.layout();
    let weights = summary::bytes(usize::try_from(job.pipeline.weight_bytes()?).unwrap_or(usize::MAX));
    let holds = if job.shard {
        format!("each holds a share of the blocks' weights, of {weights} on disk")
    } else {
        format!("each holds all weights, {weights} on disk")
    };
    out.note(&format!("{} ranks, {layout}: {holds}", layout.ranks()));
    if job.device.is_cuda() {
        out.note(&format!("tensors go {}", way(nccl_version().as_deref())));
    }
    Ok(())
}
