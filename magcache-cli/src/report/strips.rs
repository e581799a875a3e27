//! The skip pattern of every configuration, as bars that differ in shape as well as in colour.

use magcache_core::error::count;
use maud::{Markup, PreEscaped, html};

use super::{
    html::{class, name, scrolling},
    plots::first_step,
};
use crate::compare::{Compared, row::Row};

/// Width of a step, in units.
const STEP: usize = 10;
/// Width of the gap where another expert begins, in units.
const GAP: usize = 8;
/// Height, in units.
const HEIGHT: usize = 24;

pub(super) fn section(compared: &Compared<'_>) -> Markup {
    let rows = || compared.configs().filter(|row| !row.strips.is_empty());
    if rows().next().is_none() {
        return Markup::default();
    }
    let line = |row: &Row| {
        let of = |(branch, strip)| format!("{:<16} {branch:>7} {strip}\n", row.name);
        row.strips.iter().map(|(branch, strip)| of((branch, strip))).collect::<String>()
    };
    html! {
        p class="legend" {
            "A tall bar is a pass that was computed, a low one was skipped, a broken one is a failsafe; a gap with a line \
             is where the second expert begins. Steps from left to right."
        }
        @for row in rows() { (lane(compared, row)) }
        details {
            summary { "As text" }
            p { "# computed, . skipped, ! failsafe, - no such pass, | second expert" }
            (scrolling("Skipped steps as text", &html! { pre { (rows().map(line).collect::<String>()) } }))
        }
    }
}

fn lane(compared: &Compared<'_>, row: &Row) -> Markup {
    html! {
        div class={ "pattern " (class(&compared.rows, row)) } {
            h3 {
                (name(&compared.rows, row)) " "
                small { (row.skipped) " of " (count(row.passes(), "pass")) " skipped" }
            }
            @for (branch, strip) in &row.strips {
                div class="strip" {
                    span { (branch) }
                    (bars(&format!("{} {branch}", row.name), strip, first_step(compared)))
                }
            }
        }
    }
}

/// A strip as a drawing with a text alternative; `first` is the number of its first step.
fn bars(label: &str, strip: &str, first: usize) -> Markup {
    let (mut steps, mut x) = (0, 0);
    let (mut bars, mut skipped, mut failed) = (String::new(), Vec::new(), Vec::new());
    let rect = |class: &str, x: usize, y: usize, width: usize, height: usize| {
        format!("<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"/>")
    };
    for mark in strip.chars() {
        match mark {
            '|' => {
                bars += &rect("edge", x + GAP / 2 - 1, 0, 2, HEIGHT);
                x += GAP;
                continue;
            }
            '#' => bars += &rect("computed", x + 1, 0, STEP - 2, HEIGHT),
            '.' => {
                bars += &rect("skipped", x + 1, HEIGHT - 5, STEP - 2, 5);
                skipped.push((first + steps).to_string());
            }
            '!' => {
                bars += &rect("failed", x + 1, 0, STEP - 2, 9);
                bars += &rect("failed", x + 1, 15, STEP - 2, 9);
                failed.push((first + steps).to_string());
            }
            _ => {}
        }
        steps += 1;
        x += STEP;
    }
    let list = |what: &str, steps: &[String]| {
        if steps.is_empty() { String::new() } else { format!(", {what} at {}", steps.join(", ")) }
    };
    let words = format!(
        "{label}: {}, {} skipped{}{}",
        count(steps, "step"),
        skipped.len(),
        list("skipped", &skipped),
        list("failsafe", &failed)
    );
    html! {
        svg role="img" aria-label=(words) viewBox=(format!("0 0 {x} {HEIGHT}")) preserveAspectRatio="none" {
            (PreEscaped(bars))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strip_says_what_it_draws() {
        let svg = bars("x cond", "#.|.!-", 10).into_string();
        assert!(
            svg.contains("aria-label=\"x cond: 5 steps, 2 skipped, skipped at 11, 12, failsafe at 13\""),
            "{svg}"
        );
        let count = |class: &str| svg.matches(&format!("class=\"{class}\"")).count();
        assert_eq!(["computed", "skipped", "failed", "edge"].map(count), [1, 2, 2, 1]);
        assert!(svg.contains("viewBox=\"0 0 58 24\""));
        // The edge is drawn in the gap between the steps.
        assert!(svg.contains("class=\"edge\" x=\"23\""), "{svg}");
    }
}
