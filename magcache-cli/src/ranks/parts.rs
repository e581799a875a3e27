//! The state of a run on several ranks as one: that of the first rank, and of every other under its number.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor, safetensors::Load};
use magcache_core::snapshot::Snapshot;
use magcache_models::{pipeline::PipelineError, ranks::Ranks};
use safetensors::SafeTensors;

const ABOUT: &str = "the state of a run";

/// Where the state of a rank is in that of all.
fn place(rank: usize) -> String {
    format!("rank-{rank}/")
}

/// The state of all ranks on the first one, from `own` of each; the other ranks keep theirs.
pub(crate) fn of_all(ranks: Option<&Ranks>, own: Snapshot) -> Result<Snapshot> {
    let Some(ranks) = ranks else { return Ok(own) };
    let world = ranks.world();
    if !ranks.is_first() {
        world.send(ABOUT, 0, to_bytes(&own)?)?;
        return Ok(own);
    }
    let (mut tensors, mut values) = (own.tensors().clone(), own.values().clone());
    for rank in 1..world.size() {
        let other = of_bytes(&world.receive(ABOUT, rank)?)?;
        let named = |name: &String| place(rank) + name;
        tensors.extend(other.tensors().iter().map(|(name, tensor)| (named(name), tensor.clone())));
        values.extend(other.values().iter().map(|(name, value)| (named(name), value.clone())));
    }
    Ok(Snapshot::from_parts(tensors, values))
}

/// The part of each rank, from the state of all that the first one has, if there is one.
pub(crate) fn own_part(ranks: Option<&Ranks>, all: Option<Snapshot>) -> Result<Option<Snapshot>> {
    let Some(ranks) = ranks else { return Ok(all) };
    let world = ranks.world();
    if !ranks.is_first() {
        let bytes = world.receive(ABOUT, 0)?;
        return if bytes.is_empty() { Ok(None) } else { of_bytes(&bytes).map(Some) };
    }
    for rank in 1..world.size() {
        let bytes = all.as_ref().map(|all| to_bytes(&part(all, &place(rank)))).transpose()?;
        world.send(ABOUT, rank, bytes.unwrap_or_default())?;
    }
    Ok(all)
}

fn part(all: &Snapshot, place: &str) -> Snapshot {
    let own = |name: &String| name.strip_prefix(place).map(str::to_owned);
    let tensors = all.tensors().iter().filter_map(|(name, tensor)| Some((own(name)?, tensor.clone())));
    let values = all.values().iter().filter_map(|(name, value)| Some((own(name)?, value.clone())));
    Snapshot::from_parts(tensors.collect(), values.collect())
}

fn to_bytes(snapshot: &Snapshot) -> Result<Vec<u8>> {
    let host = |(name, tensor): (&String, &Tensor)| {
        Ok((name.clone(), tensor.to_device(&Device::Cpu)?.contiguous()?))
    };
    let tensors = snapshot.tensors().iter().map(host).collect::<Result<BTreeMap<_, _>>>()?;
    let values = snapshot.values().clone().into_iter().collect();
    Ok(safetensors::serialize(tensors, Some(values))?)
}

fn of_bytes(bytes: &[u8]) -> Result<Snapshot> {
    let what = "the state of another rank cannot be read";
    let (_, header) = SafeTensors::read_metadata(bytes).context(what)?;
    let values = header.metadata().clone().unwrap_or_default().into_iter().collect();
    let tensors = SafeTensors::deserialize(bytes).context(what)?;
    let tensors = tensors.iter().map(|(name, view)| Ok((name.to_owned(), view.load(&Device::Cpu)?)));
    let tensors = tensors.collect::<candle_core::Result<_>>().map_err(PipelineError::Tensor)?;
    Ok(Snapshot::from_parts(tensors, values))
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread, time::Duration};

    use magcache_core::group;

    use super::*;

    fn state(rank: usize) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.writer().field("x", &Tensor::new(&[rank as f32, 0.5], &Device::Cpu).unwrap());
        snapshot.writer().field("n", &rank);
        snapshot
    }

    #[test]
    fn what_one_rank_keeps_for_all_comes_back_to_each() {
        let same = |a: &Snapshot, b: &Snapshot| {
            let bytes = |s: &Snapshot| to_bytes(s).unwrap();
            assert_eq!((a.values(), bytes(a).len()), (b.values(), bytes(b).len()));
            assert_eq!(
                a.tensors()["x"].to_vec1::<f32>().unwrap(),
                b.tensors()["x"].to_vec1::<f32>().unwrap()
            );
        };
        let layout = "ulysses=3".parse().unwrap();
        thread::scope(|scope| {
            for plane in group::threads(3) {
                scope.spawn(move || {
                    let ranks = Ranks::new(Arc::new(plane), layout, Duration::from_secs(20)).unwrap();
                    let all = of_all(Some(&ranks), state(ranks.world().place())).unwrap();
                    let all = ranks.is_first().then_some(all);
                    let back = own_part(Some(&ranks), all).unwrap().unwrap();
                    let own = state(ranks.world().place());
                    same(&part(&back, ""), &if ranks.is_first() { back.clone() } else { own.clone() });
                    assert_eq!(back.values()["n"], own.values()["n"]);
                    let none = own_part(Some(&ranks), None).unwrap();
                    assert!(none.is_none());
                });
            }
        });
        same(&own_part(None, Some(state(1))).unwrap().unwrap(), &state(1));
    }
}
