//! Which ranks do what.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use candle_core::{DType, Device, Result, Tensor};
use magcache_core::{
    Group,
    group::{ControlPlane, GroupError, Lane},
    hint,
};

use super::{DataPlane, HostPlane, host::to_bytes, plane_of};
use crate::blocks::{Fetcher, Residence, Traffic};

/// How ranks divide a forward: `cfg=2,ulysses=4`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Groups of ranks that run one guidance branch each: 1 or 2.
    pub cfg: usize,
    /// Ranks of each of them, which divide the tokens.
    pub ulysses: usize,
}

impl Default for Layout {
    fn default() -> Self {
        Self { cfg: 1, ulysses: 1 }
    }
}

impl Layout {
    /// Number of ranks.
    pub fn ranks(self) -> usize {
        self.cfg * self.ulysses
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.cfg, self.ulysses) {
            (1, ulysses) => write!(f, "ulysses={ulysses}"),
            (cfg, 1) => write!(f, "cfg={cfg}"),
            (cfg, ulysses) => write!(f, "cfg={cfg},ulysses={ulysses}"),
        }
    }
}

/// A text that names no layout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LayoutError(String);

impl FromStr for Layout {
    type Err = LayoutError;

    fn from_str(text: &str) -> std::result::Result<Self, LayoutError> {
        let (mut cfg, mut ulysses) = (None, None);
        for part in text.split(',').map(str::trim) {
            let wrong = |why: &str| LayoutError(format!("{part:?} of {text:?} {why}"));
            let (name, number) = part.split_once('=').ok_or_else(|| wrong("is not NAME=N"))?;
            let place = match name.trim() {
                "cfg" => &mut cfg,
                "ulysses" => &mut ulysses,
                _ => return Err(wrong("is neither `cfg` nor `ulysses`")),
            };
            let number: usize = number.trim().parse().map_err(|_| wrong("has no number"))?;
            match number {
                0 => return Err(wrong("is no rank at all")),
                3.. if name.trim() == "cfg" => {
                    return Err(wrong("is more than the two branches of guidance"));
                }
                _ if place.replace(number).is_some() => return Err(wrong("is named twice")),
                _ => {}
            }
        }
        Ok(Self { cfg: cfg.unwrap_or(1), ulysses: ulysses.unwrap_or(1) })
    }
}

/// The ranks of a run as one of them sees them.
#[derive(Clone, Debug)]
pub struct Ranks {
    layout: Layout,
    world: Group,
    tokens: Group,
    branches: Group,
    /// Between those that run the same branch, and between those that have the same tokens.
    planes: Arc<OnceLock<[Arc<dyn DataPlane>; 2]>>,
    /// One thread for all weights, once there is something to fetch.
    fetcher: Arc<Mutex<Option<Fetcher>>>,
}

impl Ranks {
    /// All ranks of an engine, those of the first branch first. Each waits for the others at most `patience`.
    ///
    /// # Errors
    /// Another number of ranks than the layout has.
    pub fn new(
        engine: Arc<dyn ControlPlane>,
        layout: Layout,
        patience: Duration,
    ) -> std::result::Result<Self, GroupError> {
        let world = Group::world(engine, patience);
        let Layout { cfg, ulysses } = layout;
        let (branch, place) = (world.place() / ulysses.max(1), world.place() % ulysses.max(1));
        let tokens = world.part(&(0..ulysses).map(|p| branch * ulysses + p).collect::<Vec<_>>());
        let branches = world.part(&(0..cfg).map(|b| b * ulysses + place).collect::<Vec<_>>());
        match (tokens, branches) {
            (Some(tokens), Some(branches)) if world.size() == layout.ranks() => {
                let (planes, fetcher) = <_>::default();
                Ok(Self { layout, world, tokens, branches, planes, fetcher })
            }
            _ => Err(GroupError::Engine(format!(
                "{layout} needs {} ranks, there are {}",
                layout.ranks(),
                world.size()
            ))),
        }
    }

    /// Lets tensors go from one rank's device to another's by what this build has for that: NCCL
    /// between GPUs, with the feature `nccl`; else through the hosts, as without this call. Every rank
    /// makes it, before the first tensor goes anywhere.
    ///
    /// # Errors
    /// Those of the engine; a rank that does not answer.
    pub fn connect(&self, device: &Device) -> Result<()> {
        self.connect_by(|group| plane_of(group, device))
    }

    /// The same by an engine of one's own, which is asked for a way between the ranks of each group. What is
    /// connected stays so.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn connect_by(&self, plane: impl Fn(&Group) -> Result<Arc<dyn DataPlane>>) -> Result<()> {
        if self.planes.get().is_none() {
            let both = [plane(&self.tokens)?, plane(&self.branches)?];
            self.planes.get_or_init(|| both);
        }
        Ok(())
    }

    fn planes(&self) -> &[Arc<dyn DataPlane>; 2] {
        let host = |group: &Group| -> Arc<dyn DataPlane> { Arc::new(HostPlane::new(group.clone())) };
        self.planes.get_or_init(|| [host(&self.tokens), host(&self.branches)])
    }

    /// How they divide a forward.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// All of them.
    pub fn world(&self) -> &Group {
        &self.world
    }

    /// Those that run the same branch, each with its own tokens.
    pub fn tokens(&self) -> &Group {
        &self.tokens
    }

    /// Those that have the same tokens, each of another branch.
    pub fn branches(&self) -> &Group {
        &self.branches
    }

    /// What moves tensors between those that run the same branch.
    pub fn plane(&self) -> &Arc<dyn DataPlane> {
        &self.planes()[0]
    }

    /// Whether this is the one that reads, encodes, decodes, writes and shows.
    pub fn is_first(&self) -> bool {
        self.world.place() == 0
    }

    /// Weights of blocks, divided among those that run the same branch; the first who asks says where the
    /// fetches are counted.
    ///
    /// # Errors
    /// The system has no thread left to fetch them.
    pub fn shards(&self, traffic: &Traffic) -> Result<Residence> {
        let mut started = self.fetcher.lock().unwrap_or_else(PoisonError::into_inner);
        let fetcher = match started.take() {
            Some(fetcher) => fetcher,
            None => Fetcher::start(traffic.clone())?,
        };
        *started = Some(fetcher.clone());
        Ok(Residence::Shards { group: self.tokens.in_lane(Lane::Weights), fetcher })
    }

    /// Waits until everything that was fetched ahead is there, so that nobody waits for this rank any more.
    pub fn settle(&self) {
        let started = self.fetcher.lock().unwrap_or_else(PoisonError::into_inner).clone();
        started.iter().for_each(Fetcher::settle);
    }

    /// Everyone's tensor of the same shape, in order of the branches.
    ///
    /// # Errors
    /// Those of the ranks' exchange.
    pub(crate) fn of_branches(&self, about: &str, own: &Tensor) -> Result<Vec<Tensor>> {
        self.planes()[1].all_to_all(
            about,
            vec![own.clone(); self.branches.size()],
            &vec![own.dims().to_vec(); self.branches.size()],
        )
    }

    /// The tensors that the first rank makes, on `device`.
    ///
    /// # Errors
    /// What `make` fails with, on the first rank; those of the ranks' exchange.
    pub fn from_first<E: From<candle_core::Error>>(
        &self,
        about: &str,
        device: &Device,
        make: impl FnOnce() -> std::result::Result<Vec<Tensor>, E>,
    ) -> std::result::Result<Vec<Tensor>, E> {
        let (group, tensors) = (&self.world, if self.is_first() { make()? } else { Vec::new() });
        let head: String =
            tensors.iter().map(|t| format!("{} {:?};", t.dtype().as_str(), t.dims())).collect();
        let first = |bytes: Vec<u8>| group.from_first::<GroupError>(about, || Ok(bytes)).map_err(hint::wrap);
        let head = String::from_utf8_lossy(&first(head.into_bytes())?).into_owned();
        let mut all = Vec::new();
        for (i, entry) in head.split_terminator(';').enumerate() {
            let bytes = tensors.get(i).map(to_bytes).transpose()?.unwrap_or_default();
            let bytes = first(bytes)?;
            all.push(match tensors.get(i) {
                Some(own) => own.clone(),
                None => from_bytes(entry, &bytes, device)?,
            });
        }
        Ok(all)
    }
}

/// A tensor as its entry describes it: `f32 [1, 2]`.
fn from_bytes(entry: &str, bytes: &[u8], device: &Device) -> Result<Tensor> {
    let odd = || candle_core::Error::msg(format!("{entry:?} describes no tensor"));
    let (dtype, dims) = entry.split_once(' ').ok_or_else(odd)?;
    let dtype: DType = dtype.parse().map_err(|_| odd())?;
    let dims = dims.trim_matches(['[', ']']).split(',').map(str::trim).filter(|n| !n.is_empty());
    let dims: Vec<usize> = dims.map(|n| n.parse().map_err(|_| odd())).collect::<Result<_>>()?;
    Tensor::from_raw_buffer(bytes, dtype, &dims, device)
}
