//! Compares profiles that differ in exactly one thing.

use magcache_core::run::steps_above;

use super::*;

fn profile(ratios: &[f64], more: &str) -> Profile {
    let list: Vec<String> = ratios.iter().map(|r| format!("{r:?}")).collect();
    let text = format!(
        "name = \"p\"\nmodel = \"toy\"\n[[curve]]\nsteps = {}\nratios = {{ cond = [{}] }}\n{more}",
        ratios.len(),
        list.join(", ")
    );
    Profile::parse(&text, "p.toml").expect("is sound")
}

const RATIOS: [f64; 10] = [1.0, 0.99, 0.98, 0.99, 0.97, 0.98, 0.99, 0.98, 0.97, 0.9];

fn fit(coefficients: &str, range: &str) -> String {
    format!(
        "[[fit]]\nsignal = \"modulated-input\"\ncoefficients = {coefficients}\nwarmup = 1\nlast_steps = 1\n{range}\n"
    )
}

#[test]
fn a_profile_equals_itself() {
    let own = profile(&RATIOS, &fit("[2.0, 0.0]", "fitted_range = [0.1, 0.3]"));
    let diff = Diff::of(&own, &own);
    assert!(diff.equal(0.0) && diff.conditions.is_empty() && diff.missing.is_empty());
    assert!(diff.values.iter().all(|v| v.largest == 0.0) && diff.values.len() == 2, "{:?}", diff.values);
    assert!(diff.to_string().contains("the same are skipped: 5 steps"), "{diff}");
}

#[test]
fn the_largest_difference_of_a_curve_has_its_step() {
    let mut other = RATIOS;
    other[4] += 0.02;
    other[7] -= 0.01;
    let diff = Diff::of(&profile(&RATIOS, ""), &profile(&other, ""));
    let [values] = &diff.values[..] else { panic!("{:?}", diff.values) };
    assert_eq!((values.at, values.quantity, values.decides), (4.0, "ratio", true));
    assert!((values.largest - 0.02).abs() < 1e-12 && (values.mean - 0.003).abs() < 1e-12);
    assert!(!diff.equal(0.0) && !diff.equal(0.0199) && diff.equal(0.0201));
}

#[test]
fn another_number_of_steps_is_read_as_a_run_reads_it() {
    let twice: Vec<f64> = RATIOS.iter().flat_map(|r| [*r, *r]).collect();
    let diff = Diff::of(&profile(&RATIOS, ""), &profile(&twice, ""));
    assert_eq!(diff.conditions[0].key, "steps");
    assert!(diff.conditions[0].is_read && !diff.equal(1.0));
    // round(i * 19 / 9) of the doubled list is value i unless it rounds to a neighbour.
    let expected = (0..10).map(|i| (RATIOS[i] - twice[resample::index(20, 10, i)]).abs());
    assert_eq!(diff.values[0].largest, expected.fold(0.0, f64::max));
}

#[test]
fn experts_are_compared_apart() {
    let high = steps_above(0.8, 3.0, 10);
    let mut other = RATIOS;
    other[high] += 0.5;
    let with = |ratios: &[f64]| {
        let mut p = profile(ratios, "");
        (p.curves[0].flow_shift, p.curves[0].boundary_ratio) = (Some(3.0), Some(0.8));
        p
    };
    let diff = Diff::of(&with(&RATIOS), &with(&other));
    let found: Vec<(&str, f64)> = diff.values.iter().map(|v| (v.what.as_str(), v.largest)).collect();
    assert_eq!(found, [("curve, cond, expert 0", 0.0), ("curve, cond, expert 1", 0.5)]);
}

#[test]
fn fits_are_compared_where_both_were_fitted() {
    let of = |coefficients: &str, range: &str| profile(&RATIOS, &fit(coefficients, range));
    let a = of("[2.0, 0.0]", "fitted_range = [0.1, 0.3]");
    let diff = Diff::of(&a, &of("[3.0, 0.0]", "fitted_range = [0.2, 0.6]"));
    let values = diff.values.last().expect("of the fit");
    assert_eq!((values.range, values.at), ([0.2, 0.3], 0.3));
    assert!((values.largest - 0.3).abs() < 1e-12);
    let diff = Diff::of(&a, &of("[2.0, 0.0]", "fitted_range = [0.4, 0.6]"));
    assert!(
        diff.to_string().contains("there is no fit: a distance that both were fitted on") && !diff.equal(9.0)
    );
    let diff = Diff::of(&a, &profile(&RATIOS, ""));
    assert_eq!(diff.missing, [Missing { what: "fit".into(), only_in: 'a' }]);
    assert!(!diff.equal(9.0));
}

#[test]
fn sensitivities_are_compared_by_their_part() {
    let of = |timestep: &str| {
        let table = format!(
            "[[sensitivity]]\ntimesteps = [900.0, 100.0]\nlatent = [1.0, 1.0]\ntimestep = {timestep}"
        );
        profile(&RATIOS, &table)
    };
    let diff = Diff::of(&of("[0.001, 0.002]"), &of("[0.001, 0.0025]"));
    let values = diff.values.last().expect("of the timestep");
    assert!((values.largest - 0.2).abs() < 1e-12 && values.at == 100.0, "{values:?}");
}

#[test]
fn planned_schedules_are_compared() {
    let of = |skip: &str, cost: &str| {
        let job = format!(
            "[[plan]]\nsteps = 10\nskipped_cost = {cost}\n[[plan.schedule]]\ncomputed = 8\nskip = {skip}\ncontinuation = \"residual\"\nerror = 0.1\n"
        );
        profile(&RATIOS, &job)
    };
    let a = of("[3, 5]", "0.1");
    assert!(Diff::of(&a, &of("[3, 5]", "0.2")).equal(0.0), "a time decides nothing");
    let diff = Diff::of(&a, &of("[3, 6]", "0.1"));
    let told = diff.to_string();
    assert!(!diff.equal(1.0) && told.contains("skipped of 8 computed: [3, 5]"), "{told}");
    assert_eq!(Diff::of(&a, &profile(&RATIOS, "")).missing[0].what, "plans of 10 steps");
}

#[test]
fn decisions_that_change_are_named() {
    let mut other = RATIOS;
    other[3] = 0.8;
    let diff = Diff::of(&profile(&RATIOS, ""), &profile(&other, ""));
    let [d] = &diff.decisions[..] else { panic!("{:?}", diff.decisions) };
    assert_eq!(d.skipped[0], [2, 3, 5, 6, 8]);
    assert!(d.only(0).contains(&3) && d.skipped[1].iter().all(|step| *step != 3), "{d:?}");
    let told = diff.to_string();
    assert!(
        told.contains(
            "magcache, cond of 10 steps, threshold 0.12, 2 skips at most, warm-up 0.2: only a skips [3"
        ),
        "{told}"
    );
}

#[test]
fn conditions_are_told_and_decide_nothing() {
    let of = |seeds: &str| profile(&RATIOS, &format!("[curve.source.measured]\nseeds = {seeds}\n"));
    let diff = Diff::of(&of("[1]"), &of("[1, 2]"));
    assert!(diff.equal(0.0));
    assert!(diff.to_string().contains("curve\n  seeds: [1] in a, [1, 2] in b\n"), "{diff}");
}

#[test]
fn a_chart_has_both() {
    let svg = chart(&profile(&RATIOS, ""), &profile(&RATIOS[..5], "")).svg().expect("is drawn");
    assert!(svg.contains("a, cond") && svg.contains("b, cond"));
    let none = Profile { curves: Vec::new(), ..profile(&RATIOS, "") };
    assert!(chart(&none, &none).svg().is_err());
}
