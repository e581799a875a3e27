//! What is not the engine's: with channels in its place.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender},
    },
};

use candle_core::{Device, IndexOp};
use magcache_core::group::{self, ControlPlane as _, ThreadPlane};

use super::*;
use crate::{
    checkpoint::Ops,
    ranks::{HostPlane, Ranks, Sequence},
};

/// Parts between threads. It has them only when it was asked a few times, as an engine that works on.
#[derive(Debug)]
struct Channels {
    place: usize,
    to: Vec<Sender<Vec<f32>>>,
    from: Vec<Receiver<Vec<f32>>>,
    /// Sends nothing.
    silent: bool,
    asked: usize,
    got: Vec<Option<Tensor>>,
    shapes: Vec<Vec<usize>>,
    did: Arc<Did>,
}

/// What became of it.
#[derive(Debug, Default)]
struct Did {
    begun: AtomicUsize,
    left: AtomicUsize,
    aborted: AtomicUsize,
}

fn channels(ranks: usize) -> Vec<Channels> {
    let (mut to, mut from): (Vec<Vec<_>>, Vec<Vec<_>>) = (0..ranks).map(|_| (vec![], vec![])).unzip();
    for sender in &mut to {
        for receivers in &mut from {
            let (tx, rx) = mpsc::channel();
            sender.push(tx);
            receivers.push(rx);
        }
    }
    let both = to.into_iter().zip(from).enumerate();
    let one = |(place, (to, from))| {
        let (got, shapes, did) = <_>::default();
        Channels { place, to, from, silent: false, asked: 0, got, shapes, did }
    };
    both.map(one).collect()
}

impl Fabric for Channels {
    const NAME: &'static str = "channels";

    fn is_ready(&mut self) -> Result<bool> {
        self.asked += 1;
        Ok(self.asked.is_multiple_of(3))
    }

    fn begin(&mut self, _: &str, parts: Vec<Tensor>, shapes: &[Vec<usize>]) -> Result<()> {
        self.did.begun.fetch_add(1, Ordering::SeqCst);
        for (place, part) in
            parts.iter().enumerate().filter(|(place, _)| *place != self.place && !self.silent)
        {
            _ = self.to[place].send(part.flatten_all()?.to_vec1()?);
        }
        let own = |(place, part): (usize, Tensor)| (place == self.place).then_some(part);
        self.got = parts.into_iter().enumerate().map(own).collect();
        self.shapes = shapes.to_vec();
        Ok(())
    }

    fn poll(&mut self) -> Result<Option<Vec<Tensor>>> {
        if !self.is_ready()? {
            return Ok(None);
        }
        for (place, got) in self.got.iter_mut().enumerate().filter(|(_, got)| got.is_none()) {
            if let Ok(values) = self.from[place].try_recv() {
                *got = Some(Tensor::from_vec(values, self.shapes[place].as_slice(), &Device::Cpu)?);
            }
        }
        Ok(self.got.iter().cloned().collect())
    }

    fn leave(&mut self) -> Result<()> {
        self.did.left.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

impl Drop for Channels {
    fn drop(&mut self) {
        if self.did.left.load(Ordering::SeqCst) == 0 {
            self.did.aborted.fetch_add(1, Ordering::SeqCst);
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `each` on so many ranks, every one with a group and channels.
fn each_rank<R: Send>(
    ranks: usize,
    patience: Duration,
    each: impl Fn(Group, Channels) -> R + Sync,
) -> Vec<R> {
    let each = &each;
    thread::scope(|scope| {
        let start = |(plane, channels): (ThreadPlane, Channels)| {
            scope.spawn(move || each(Group::world(Arc::new(plane), patience), channels))
        };
        let all: Vec<_> = group::threads(ranks).into_iter().zip(channels(ranks)).map(start).collect();
        all.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Numbers that are all different.
fn numbers(dims: &[usize]) -> Tensor {
    let n: usize = dims.iter().product();
    Tensor::from_vec((0..n).map(|i| (i as f32).sin()).collect(), dims, &Device::Cpu).unwrap()
}

fn bits(x: &Tensor) -> Vec<u32> {
    x.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

#[test]
fn shares_of_any_size_arrive_as_they_do_through_hosts() {
    // Two streams of tokens and heads that no number of ranks divides.
    let (streams, heads, dim) = ([7, 5], 5, 4);
    let x = [numbers(&[2, 12, 3 * heads * dim])];
    let whole = |i: usize| x[0].narrow(2, i * heads * dim, heads * dim).unwrap();
    let of = |plane: Option<&Arc<dyn DataPlane>>| {
        let sequence = Sequence::new(plane, &streams).unwrap();
        let own = |x: &Tensor| {
            let parts = [(0, 0, 7), (1, 7, 5)]
                .map(|(stream, from, n)| sequence.narrow(&x.narrow(1, from, n).unwrap(), stream).unwrap());
            Tensor::cat(&parts, 1).unwrap()
        };
        let [q, k, v] = [0, 1, 2].map(|i| own(&whole(i)));
        let attended = sequence.attention(Ops::default(), &q, &k, &v, heads).unwrap();
        let first = attended.i((.., ..sequence.own(0).len())).unwrap();
        (bits(&attended), bits(&sequence.gather(&first, 0).unwrap()))
    };
    let (attended, gathered) = of(None);
    for ranks in 2..=4 {
        let all = each_rank(ranks, PATIENCE, |group, channels| {
            let did = Arc::clone(&channels.did);
            let host: Arc<dyn DataPlane> = Arc::new(HostPlane::new(group.clone()));
            let device: Arc<dyn DataPlane> = Arc::new(DevicePlane::new(group, channels).unwrap());
            let both = [of(Some(&device)), of(Some(&host))];
            assert_eq!(did.begun.load(Ordering::SeqCst), 3, "to heads, to tokens, and the gather");
            both
        });
        for (rank, [device, host]) in all.iter().enumerate() {
            assert_eq!(device, host, "rank {rank} of {ranks}");
            assert_eq!(device.1, gathered, "rank {rank} of {ranks}");
            assert!(device.0.len() < attended.len() && device.0.iter().all(|bits| attended.contains(bits)));
        }
    }
}

#[test]
fn branches_and_tokens_are_connected_by_the_same_engine() {
    // By the two ranks of a group, and the place there.
    let mut ways = BTreeMap::new();
    for pair in [[0, 1], [2, 3], [0, 2], [1, 3]] {
        ways.extend(channels(2).into_iter().map(|way| ((pair, way.place), way)));
    }
    let ways = Mutex::new(ways);
    let run = |plane: ThreadPlane| {
        let rank = plane.rank() as f32;
        let ranks = Ranks::new(Arc::new(plane), "cfg=2,ulysses=2".parse().unwrap(), PATIENCE).unwrap();
        let did = Mutex::new(Vec::new());
        let connect = |group: &Group| -> Result<Arc<dyn DataPlane>> {
            let place = ([0, 1].map(|place| group.rank(place)), group.place());
            // What is connected stays: there is one for each.
            let way = ways.lock().unwrap().remove(&place).expect("not taken before");
            did.lock().unwrap().push(Arc::clone(&way.did));
            Ok(Arc::new(DevicePlane::new(group.clone(), way)?))
        };
        ranks.connect_by(connect).unwrap();
        ranks.connect_by(connect).unwrap();
        let own = Tensor::new(&[rank], &Device::Cpu).unwrap();
        let values = |all: Vec<Tensor>| Tensor::cat(&all, 0).unwrap().to_vec1::<f32>().unwrap();
        let branches = values(ranks.of_branches("predictions", &own).unwrap());
        let tokens = ranks.plane().all_to_all("tokens", vec![own; 2], &[vec![1], vec![1]]).unwrap();
        drop(ranks);
        let did = did.into_inner().unwrap();
        let did = did.iter().map(|did| [&did.begun, &did.left].map(|times| times.load(Ordering::SeqCst)));
        (values(tokens), branches, did.collect::<Vec<_>>())
    };
    let run = &run;
    let got: Vec<_> = thread::scope(|scope| {
        let all: Vec<_> =
            group::threads(4).into_iter().map(|plane| scope.spawn(move || run(plane))).collect();
        all.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    for (rank, (tokens, branches, did)) in got.into_iter().enumerate() {
        let (even, first) = ((rank / 2 * 2) as f32, (rank % 2) as f32);
        assert_eq!(tokens, [even, even + 1.0], "rank {rank}");
        assert_eq!(branches, [first, first + 2.0], "rank {rank}");
        assert_eq!(did, [[1, 1]; 2], "both were used once, and left");
    }
}

#[test]
fn who_is_sent_another_count_or_type_begins_nothing() {
    let outcomes = each_rank(2, PATIENCE, |group, channels| {
        let (place, did) = (group.place(), Arc::clone(&channels.did));
        let plane = DevicePlane::new(group.clone(), channels).unwrap();
        // Rank 1 believes that the shares are even, and gets what it expects.
        let (parts, expected) = if place == 0 { ([3, 2], 3) } else { ([2, 2], 2) };
        let parts = parts.map(|n| numbers(&[n])).to_vec();
        let sent = plane.all_to_all("queries", parts, &[vec![expected], vec![expected]]);
        let error = sent.unwrap_err().to_string();
        if place == 0 {
            // What the program does with an error.
            group.stop(&error);
        }
        (error, did.begun.load(Ordering::SeqCst))
    });
    let expected = "queries: 2 values of f32 from rank 1, expected 3 values of f32";
    assert!(outcomes[0].0.contains(expected) && outcomes[0].1 == 0, "{outcomes:?}");
    assert!(outcomes[1].0.contains(&format!("rank 0 stopped the run: {expected}")), "{outcomes:?}");

    let outcomes = each_rank(2, PATIENCE, |group, channels| {
        let did = Arc::clone(&channels.did);
        let dtype = if group.place() == 0 { DType::F32 } else { DType::BF16 };
        let plane = DevicePlane::new(group, channels).unwrap();
        let parts = vec![numbers(&[2]).to_dtype(dtype).unwrap(); 2];
        // Nothing is sent, so nobody waits for it.
        let few = plane.all_to_all("keys", vec![], &[vec![2], vec![2]]).unwrap_err().to_string();
        assert!(few.contains("keys: 0 parts for 2 ranks"), "{few}");
        let error = plane.all_to_all("keys", parts, &[vec![2], vec![2]]).unwrap_err().to_string();
        (error, did.begun.load(Ordering::SeqCst))
    });
    for (rank, (there, here)) in [("bf16", "f32"), ("f32", "bf16")].into_iter().enumerate() {
        let expected =
            format!("keys: 2 values of {there} from rank {}, expected 2 values of {here}", 1 - rank);
        assert!(outcomes[rank].0.contains(&expected) && outcomes[rank].1 == 0, "{outcomes:?}");
    }
}

#[test]
fn who_waits_in_vain_aborts_in_time() {
    let (patience, after) = (Duration::from_millis(300), Barrier::new(2));
    let errors = each_rank(2, patience, |group, mut channels| {
        channels.silent = group.place() == 1;
        let did = Arc::clone(&channels.did);
        let plane = DevicePlane::new(group, channels).unwrap();
        let send = |about: &str| {
            plane.all_to_all(about, vec![numbers(&[2]); 2], &[vec![2], vec![2]]).map_err(|e| e.to_string())
        };
        let begun = Instant::now();
        let first = send("queries").err();
        let aborted = did.aborted.load(Ordering::SeqCst);
        after.wait();
        assert!(begun.elapsed() < 10 * patience, "{:?}", begun.elapsed());
        // Both find out what became of it, at the next exchange at the latest.
        (first, aborted, send("keys").unwrap_err())
    });
    let (first, aborted, next) = &errors[0];
    let first = first.as_deref().unwrap();
    assert!(first.contains("rank 0 has waited 0.3 s for channels: queries"), "{first}");
    assert_eq!(*aborted, 1);
    assert!(next.contains("keys: channels was aborted on rank 0"), "{next}");
    let (first, aborted, next) = &errors[1];
    assert_eq!((first, aborted), (&None, &0), "it got what it waited for");
    assert!(next.contains("rank 1 has waited 0.3 s for channels: keys"), "{next}");
}

#[test]
fn who_waits_hears_that_another_rank_stopped_and_nobody_who_joins_waits_for_ever() {
    let outcomes = each_rank(2, PATIENCE, |group, mut channels| {
        channels.silent = group.place() == 1;
        let did = Arc::clone(&channels.did);
        let plane = DevicePlane::new(group.clone(), channels).unwrap();
        let sent = plane.all_to_all("queries", vec![numbers(&[2]); 2], &[vec![2], vec![2]]);
        if group.place() == 1 {
            group.stop("out of memory");
            return None;
        }
        Some((sent.unwrap_err().to_string(), did.aborted.load(Ordering::SeqCst)))
    });
    let (error, aborted) = outcomes[0].as_ref().unwrap();
    assert!(error.contains("rank 1 stopped the run: out of memory") && *aborted == 1, "{error}");

    // Who hears it before anything began has nobody to take leave of.
    each_rank(2, PATIENCE, |group, channels| {
        let did = Arc::clone(&channels.did);
        let plane = DevicePlane::new(group.clone(), channels).unwrap();
        if group.place() == 1 {
            return group.stop("out of memory");
        }
        plane.all_to_all("queries", vec![numbers(&[2]); 2], &[vec![2], vec![2]]).unwrap_err();
        drop(plane);
        let did = [&did.begun, &did.left, &did.aborted].map(|times| times.load(Ordering::SeqCst));
        assert_eq!(did, [0, 0, 1], "begun, left, aborted");
    });

    let errors = each_rank(2, Duration::from_millis(200), |group, channels| {
        let did = Arc::clone(&channels.did);
        let stuck = Stuck(channels);
        (DevicePlane::new(group, stuck).unwrap_err().to_string(), did.aborted.load(Ordering::SeqCst))
    });
    assert!(
        errors[1].0.contains("rank 1 has waited 0.2 s for channels: every rank joins"),
        "{}",
        errors[1].0
    );
    assert_eq!(errors[1].1, 1);
}

/// An engine that never has joined.
#[derive(Debug)]
struct Stuck(Channels);

impl Fabric for Stuck {
    const NAME: &'static str = "channels";

    fn is_ready(&mut self) -> Result<bool> {
        Ok(false)
    }

    fn begin(&mut self, about: &str, parts: Vec<Tensor>, shapes: &[Vec<usize>]) -> Result<()> {
        self.0.begin(about, parts, shapes)
    }

    fn poll(&mut self) -> Result<Option<Vec<Tensor>>> {
        Ok(None)
    }

    fn leave(&mut self) -> Result<()> {
        self.0.leave()
    }
}
