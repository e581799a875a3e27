//! Searches over schedules whose scores are known.

use std::{cell::RefCell, collections::BTreeMap, convert::Infallible};

use magcache_core::planner::{Ended, Search, Searched, Skipped, StopRule, climb, neighbours};

/// Scores of a schedule of 12 steps in eight runs: better the more evenly it skips, a little different in
/// each.
fn scores(skip: &[usize]) -> Vec<f64> {
    let ideal = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0];
    let off: f64 = skip.iter().zip(ideal).map(|(a, b)| (*a as f64 - b).powi(2)).sum();
    (0..8).map(|run| 30.0 - off + 0.01 * ((run * 7 + skip.iter().sum::<usize>()) % 5) as f64).collect()
}

fn search(limit: usize, seed: u64) -> Search {
    let (steps, starts) = (12, vec![vec![1, 2, 3, 4, 5, 6]]);
    Search { steps, starts, fixed: vec![0], max_gap: 12, limit, seed }
}

/// What a search finds, and every schedule that it asked for, in order.
fn found(search: &Search) -> (Searched, Vec<Skipped>) {
    let asked = RefCell::new(Vec::new());
    let Ok(found) = search.run(|all: &[Skipped]| {
        asked.borrow_mut().extend_from_slice(all);
        Ok::<_, Infallible>(all.iter().map(|skip| Some(scores(skip))).collect())
    });
    (found, asked.into_inner())
}

#[test]
fn a_search_climbs_to_the_top_asks_once_and_is_the_same_again() {
    let (one, asked) = found(&search(500, 3));
    assert_eq!(one.best().unwrap().0, [1, 3, 5, 7, 9, 11]);
    assert_eq!(one.ended, Ended::Quiet);
    let mut once = asked.clone();
    once.sort();
    once.dedup();
    assert_eq!((once.len(), asked.len()), (asked.len(), one.scores.len()));
    assert!(asked.iter().all(|skip| skip.len() == 6 && !skip.contains(&0) && skip.is_sorted()));
    let (again, same) = found(&search(500, 3));
    assert_eq!((&again, &same), (&one, &asked));
    // Another seed goes on from other schedules, after the same climb.
    let (_, other) = found(&search(500, 4));
    assert!(other != asked && other[..20] == asked[..20]);
}

#[test]
fn a_search_scores_no_more_than_it_may() {
    for limit in [1, 2, 10, 37] {
        let (found, asked) = found(&search(limit, 0));
        assert_eq!((asked.len(), found.scores.len(), found.ended), (limit, limit, Ended::Spent));
        assert_eq!(asked[0], [1, 2, 3, 4, 5, 6]);
    }
}

#[test]
fn a_search_keeps_to_its_gaps_and_ends_when_time_is_over() {
    let starts = vec![vec![1, 3, 4, 7, 8, 10]];
    let (_, asked) = found(&Search { max_gap: 2, starts, ..search(500, 0) });
    let longest = |skip: &Skipped| skip.chunk_by(|a, b| a + 1 == *b).map(<[usize]>::len).max().unwrap();
    assert!(asked.len() > 10 && asked.iter().all(|skip| longest(skip) <= 2));

    let mut left = 12;
    let Ok(late) = search(500, 0).run(|all: &[Skipped]| {
        let one = |skip: &Skipped| {
            left -= usize::from(left > 0);
            (left > 0).then(|| scores(skip))
        };
        Ok::<_, Infallible>(all.iter().map(one).collect())
    });
    assert_eq!((late.ended, late.scores.len()), (Ended::Late, 11));
    let failed = search(500, 0).run(|_: &[Skipped]| Err("no card"));
    assert_eq!(failed.unwrap_err(), "no card");
}

#[test]
fn of_equal_schedules_the_one_with_the_best_worst_run_is_chosen() {
    let of = |all: [(usize, [f64; 4]); 3]| Searched {
        scores: all.iter().map(|(skip, scores)| (vec![*skip], scores.to_vec())).collect::<BTreeMap<_, _>>(),
        climbs: 1,
        ended: Ended::Quiet,
    };
    // The second is 0.1 dB below the first on average, which is within its error, and never far below.
    let tied = of([(1, [34.0, 30.0, 26.0, 30.4]), (2, [30.0, 30.0, 30.0, 30.0]), (3, [20.0; 4])]);
    assert_eq!((tied.best().unwrap().0, tied.chosen().unwrap().0), (&[1][..], &[2][..]));
    // Here it is as surely below.
    let apart = of([(1, [30.1; 4]), (2, [30.0; 4]), (3, [20.0; 4])]);
    assert_eq!(apart.chosen().unwrap().0, [1]);
}

#[test]
fn of_equal_neighbours_the_first_is_moved_to() {
    let near = |skip: &[usize]| neighbours(skip, 4, 3, &[0]);
    let flat = |all: &[Skipped]| {
        let score = |skip: &Skipped| Some(if *skip == [3] { 0.0 } else { 1.0 });
        Ok::<_, Infallible>(all.iter().map(score).collect())
    };
    let Ok(found) = climb(vec![3], &near, flat);
    // The masks of 1 and 2 are 0100 and 0010.
    assert_eq!(found.way, [vec![3], vec![2]]);
    assert_eq!(found.scored, 3);
}

#[test]
fn two_quiet_climbs_in_a_row_are_enough() {
    let run = |means: &[f64]| {
        let mut rule = StopRule::default();
        means.iter().position(|mean| rule.unit(&[mean - 1.0, mean + 1.0]))
    };
    // The standard error is 1: less than 2 more is quiet.
    assert_eq!(run(&[10.0, 11.9, 13.8]), Some(2));
    assert_eq!(run(&[10.0, 11.9, 14.0, 15.9, 17.8]), Some(4));
    assert_eq!(run(&[10.0, 12.1, 14.2]), None);
}
