//! A search for the schedule whose runs end nearest to the dense ones.

use std::{cell::RefCell, collections::BTreeMap};

use super::{Scores, Skipped, StopRule, WINDOW, climb, neighbours};

/// What is searched, and for how long.
///
/// Climbs from each start in turn, then from random schedules near the best one found, until the stop rule
/// ends it. A schedule is scored at most once.
#[derive(Clone, Debug)]
pub struct Search {
    /// Steps of a run.
    pub steps: usize,
    /// The schedules to climb from, by their skipped steps, the plan first; all of one length.
    pub starts: Vec<Skipped>,
    /// Steps that are computed in every schedule.
    pub fixed: Vec<usize>,
    /// Most skipped steps in a row.
    pub max_gap: usize,
    /// Most schedules that are scored.
    pub limit: usize,
    /// Seed of the random schedules.
    pub seed: u64,
}

/// What a search found.
#[derive(Clone, Debug, PartialEq)]
pub struct Searched {
    /// Every scored schedule, by its skipped steps, with its scores: one for each run, larger is better.
    pub scores: BTreeMap<Skipped, Scores>,
    /// Climbs that were made.
    pub climbs: usize,
    /// Why it ended.
    pub ended: Ended,
}

/// Why a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By the stop rule.
    Quiet,
    /// All schedules that it may score are scored.
    Spent,
    /// Whoever scores schedules had no more time.
    Late,
}

/// Random moves from the best schedule to the next start.
const KICKS: usize = 3;

/// Starts in a row that were scored before: then hardly any are left.
const FUTILE: usize = 50;

impl Search {
    /// Searches. `score` is given schedules to run and returns the scores of each run of each, larger is
    /// better, or `None` for those it has no time for.
    ///
    /// # Errors
    /// Those of `score`.
    pub fn run<E>(
        &self,
        mut score: impl FnMut(&[Skipped]) -> Result<Vec<Option<Scores>>, E>,
    ) -> Result<Searched, E> {
        let found = RefCell::new(Searched { scores: BTreeMap::new(), climbs: 0, ended: Ended::Quiet });
        let mut ask = |all: &[Skipped]| -> Result<Vec<Option<f64>>, E> {
            let mut found = found.borrow_mut();
            let mut fresh: Vec<Skipped> =
                all.iter().filter(|one| !found.scores.contains_key(*one)).cloned().collect();
            if fresh.len() > self.limit - found.scores.len() {
                fresh.truncate(self.limit - found.scores.len());
                found.ended = Ended::Spent;
            }
            for (skip, scores) in fresh.iter().zip(score(&fresh)?) {
                match scores {
                    Some(scores) => _ = found.scores.insert(skip.clone(), scores),
                    None => found.ended = Ended::Late,
                }
            }
            Ok(all.iter().map(|one| found.scores.get(one).map(|scores| mean(scores))).collect())
        };
        let near = |skip: &[usize]| self.near(skip, WINDOW);
        let (mut random, mut rule) = (Random(self.seed), StopRule::default());
        let mut starts = self.starts.iter().cloned();
        let mut futile = 0;
        loop {
            let kicked = || self.kicked(found.borrow().best()?.0, &mut random);
            let Some(start) = starts.next().or_else(kicked).filter(|_| futile < FUTILE) else { break };
            if found.borrow().scores.contains_key(&start) {
                futile += 1;
                continue;
            }
            futile = 0;
            climb(start, &near, &mut ask)?;
            let mut found = found.borrow_mut();
            found.climbs += 1;
            if found.ended != Ended::Quiet || found.best().is_none_or(|(_, scores)| rule.unit(scores)) {
                break;
            }
        }
        Ok(found.into_inner())
    }

    fn near(&self, skip: &[usize], window: usize) -> Vec<Skipped> {
        let mut near = neighbours(skip, self.steps, window, &self.fixed);
        near.retain(|skip| longest_gap(skip) <= self.max_gap);
        near
    }

    fn kicked(&self, best: &[usize], random: &mut Random) -> Option<Skipped> {
        let mut at = best.to_vec();
        for _ in 0..KICKS {
            let mut near = self.near(&at, self.steps);
            let place = random.below(near.len())?;
            at = near.swap_remove(place);
        }
        Some(at)
    }
}

impl Searched {
    /// The schedule with the best mean score, and its scores.
    pub fn best(&self) -> Option<(&[usize], &[f64])> {
        let best = self.scores.iter().max_by(|(_, a), (_, b)| mean(a).total_cmp(&mean(b)));
        best.map(|(skip, scores)| (skip.as_slice(), scores.as_slice()))
    }

    /// Of the schedules that are as good as the best one, that is by less than twice the standard error of
    /// the mean difference of their scores worse, the one with the best worst run; scores are relative to
    /// each run's mean over all schedules. Source: the Golden Path Hypothesis (arXiv 2609.39343), which
    /// does not pair the runs.
    pub fn chosen(&self) -> Option<(&[usize], &[f64])> {
        let (_, best) = self.best()?;
        let run = |place: usize| {
            mean(&self.scores.values().filter_map(|s| s.get(place).copied()).collect::<Vec<_>>())
        };
        let means: Vec<f64> = (0..best.len()).map(run).collect();
        let is_tied = |scores: &[f64]| {
            let differences: Vec<f64> = best.iter().zip(scores).map(|(a, b)| a - b).collect();
            mean(&differences) <= 2.0 * super::stop::standard_error(&differences)
        };
        let worst = |scores: &[f64]| {
            scores.iter().zip(&means).map(|(score, mean)| score - mean).fold(f64::INFINITY, f64::min)
        };
        let tied = self.scores.iter().filter(|(_, scores)| is_tied(scores));
        let chosen = tied.max_by(|(_, a), (_, b)| worst(a).total_cmp(&worst(b)));
        chosen.map(|(skip, scores)| (skip.as_slice(), scores.as_slice()))
    }
}

/// The most skipped steps in a row.
fn longest_gap(skip: &[usize]) -> usize {
    skip.chunk_by(|a, b| a + 1 == *b).map(<[usize]>::len).max().unwrap_or(0)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    /// A number below `end`; `None` for 0.
    fn below(&mut self, end: usize) -> Option<usize> {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)).checked_rem(end as u64)?).ok()
    }
}
