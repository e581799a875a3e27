//! `doctor`: what there is for several ranks.

use anyhow::Result;
use magcache_models::ranks::{Launcher, nccl_version};
use serde_json::{Value, json};
#[cfg(unix)]
use {
    crate::ranks::absent,
    magcache_core::{Group, group::ControlPlane},
    magcache_models::ranks::MpiPlane,
    std::{
        sync::Arc,
        time::{Duration, Instant},
    },
};

use crate::{args::Doctor, console::Console, machine::Machine, ranks::way};

/// Messages that the way between ranks is measured with, and bytes of the large ones.
#[cfg(unix)]
const TIMES: usize = 200;
#[cfg(unix)]
const LARGE: usize = 1 << 20;

/// How long a rank waits for another one.
#[cfg(unix)]
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn run(args: &Doctor, out: &Console) -> Result<()> {
    let launcher = Launcher::find();
    let machine = Machine::this("cpu");
    let mut text = format!("{} cores, {} threads for each rank\n", machine.cores, machine.threads);
    text += &match &launcher {
        Some(Launcher { name, size, local, .. }) => {
            let local = local.map_or(String::new(), |local| format!(", number {local} on this machine"));
            format!("launcher: {name}, {size} ranks{local}\n")
        }
        None => "launcher: none, this process was started alone\n".to_owned(),
    };
    let nccl = nccl_version();
    text += &devices(cfg!(feature = "cuda"), nccl.as_deref());
    text += attention(cfg!(feature = "cuda"), cfg!(feature = "flash-attn"));
    let document = json!({
        "launcher": launcher.as_ref().map(|l| json!({ "name": l.name, "size": l.size, "local": l.local })),
        "mpi": null,
        "nccl": nccl,
    });
    if !args.ranks {
        text += "MPI: not asked, `magcache doctor --ranks` loads it\n";
        out.answer(&text, &document);
        return Ok(());
    }
    if let Some(launcher) = launcher.as_ref().filter(|launcher| !launcher.starts_ranks()) {
        if launcher.local != Some(0) {
            return Ok(());
        }
        text += "MPI: not needed, the first process runs all ranks of one machine, as threads\n";
        out.answer(&text, &document);
        return Ok(());
    }
    join(text, document, launcher.is_none(), out)
}

#[cfg(not(unix))]
fn join(text: String, document: Value, _: bool, out: &Console) -> Result<()> {
    out.answer(&(text + "MPI: not on this system; --ranks N runs ranks as threads\n"), &document);
    Ok(())
}

/// What there is between the devices of ranks.
fn devices(on_gpus: bool, nccl: Option<&str>) -> String {
    let way = if on_gpus { way(nccl) } else { "between hosts; this build computes on CPUs".to_owned() };
    let nccl = match nccl {
        Some(version) => format!("{version}, built in and loaded"),
        None => "not in this build".to_owned(),
    };
    format!("tensors: {way}\nNCCL: {nccl}\n")
}

/// How this build computes attention on GPUs.
fn attention(on_gpus: bool, has_flash: bool) -> &'static str {
    match (on_gpus, has_flash) {
        (true, true) => "attention on GPUs: FlashAttention 2 in half precision, else cuts of the scores\n",
        (true, false) => "attention on GPUs: cuts of the scores, this build is without flash-attn\n",
        (false, _) => "",
    }
}

/// Joins the ranks, and adds what they are.
#[cfg(unix)]
fn join(mut text: String, mut document: Value, alone: bool, out: &Console) -> Result<()> {
    let plane = match MpiPlane::join(PATIENCE, || absent(PATIENCE)) {
        Ok(plane) => plane,
        Err(error) if alone => {
            text += &format!("MPI: {error}\n  --ranks N runs ranks as threads without one\n");
            out.answer(&text, &document);
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let plane = Arc::new(plane);
    let group = Group::world(Arc::clone(&plane) as _, PATIENCE);
    let measured = measure(&group);
    if plane.rank() == 0 {
        text += &format!("MPI: {}, {} of ranks\n", plane.version(), plane.size());
        if let (Ok((small, large)), true) = (&measured, plane.size() > 1) {
            let rate = LARGE as f64 / large / 1e9;
            text += &format!(
                "  a gather of 64 B takes {:.1} us, 1 MiB to each rank {rate:.2} GB/s\n",
                small * 1e6
            );
        }
        document["mpi"] = json!({ "version": plane.version(), "size": plane.size() });
        out.answer(&text, &document);
    }
    plane.leave(measured.is_ok());
    measured.map(drop).map_err(Into::into)
}

/// Median seconds of a small gather, and of one large message to every rank.
#[cfg(unix)]
fn measure(group: &Group) -> magcache_core::group::Result<(f64, f64)> {
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let time = |bytes: usize, times: usize| -> magcache_core::group::Result<f64> {
        let mine = vec![0; bytes];
        let mut all = Vec::with_capacity(times);
        for _ in 0..times {
            let begun = Instant::now();
            group.gather("a measurement", &mine)?;
            all.push(begun.elapsed().as_secs_f64());
        }
        Ok(median(all))
    };
    Ok((time(64, TIMES)?, time(LARGE, TIMES / 10)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_between_gpus_is_told() {
        let both = devices(true, Some("2.28.9"));
        assert_eq!(both, "tensors: from GPU to GPU, by NCCL 2.28.9\nNCCL: 2.28.9, built in and loaded\n");
        let without = devices(true, None);
        assert!(without.contains("through the hosts") && without.ends_with("NCCL: not in this build\n"));
        assert!(devices(false, None).starts_with("tensors: between hosts; this build computes on CPUs\n"));
    }

    #[test]
    fn what_attention_a_build_has_is_told() {
        assert!(attention(true, true).contains("FlashAttention 2"));
        assert!(attention(true, false).contains("without flash-attn"));
        assert_eq!(attention(false, false), "");
    }
}
