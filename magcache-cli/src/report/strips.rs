//! The skip pattern of every configuration, as bars that differ in shape as well as in colour.

use magcache_core::error::count;

use super::html::{class, escape, name};
use crate::compare::{
    Compared,
    row::{Role, Row},
};

/// Units of a step.
const STEP: usize = 10;
/// Units of the gap where another expert begins.
const GAP: usize = 8;
/// Units of the height.
const HEIGHT: usize = 24;

pub(super) fn section(compared: &Compared) -> String {
    let rows = compared.rows.iter().filter(|row| row.role == Role::Config && !row.strips.is_empty());
    let strips: String = rows.clone().map(|row| lane(compared, row)).collect();
    if strips.is_empty() {
        return String::new();
    }
    let text: String = rows
        .flat_map(|row| {
            row.strips.iter().map(|(branch, strip)| format!("{:<16} {branch:>7} {strip}\n", row.name))
        })
        .collect();
    format!(
        "<p class=\"legend\">A tall bar is a pass that was computed, a low one was skipped, a broken one is a failsafe; a gap with a line \
         is where the second expert begins. Steps from left to right.</p>{strips}\
         <details><summary>As text</summary><p># computed, . skipped, ! failsafe, - no such pass, | second expert</p>{}</details>",
        super::html::scrolling("Skipped steps as text", &format!("<pre>{}</pre>", escape(&text)))
    )
}

fn lane(compared: &Compared, row: &Row) -> String {
    let branches: String = row
        .strips
        .iter()
        .map(|(branch, strip)| {
            format!(
                "<div class=\"strip\"><span>{branch}</span>{}</div>",
                bars(&format!("{} {branch}", row.name), strip, compared.first_step)
            )
        })
        .collect();
    format!(
        "<div class=\"pattern {}\"><h3>{} <small>{} of {} skipped</small></h3>{branches}</div>",
        class(&compared.rows, row),
        name(&compared.rows, row),
        row.skipped,
        count(row.passes(), "pass")
    )
}

/// A strip as a drawing, with what it says in words; `first` is the number of its first step.
fn bars(label: &str, strip: &str, first: usize) -> String {
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
    format!(
        "<svg role=\"img\" aria-label=\"{}\" viewBox=\"0 0 {} {HEIGHT}\" preserveAspectRatio=\"none\">{bars}</svg>",
        escape(&words),
        x
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strip_says_what_it_draws() {
        let svg = bars("x cond", "#.|.!-", 10);
        assert!(
            svg.contains("aria-label=\"x cond: 5 steps, 2 skipped, skipped at 11, 12, failsafe at 13\""),
            "{svg}"
        );
        let count = |class: &str| svg.matches(&format!("class=\"{class}\"")).count();
        assert_eq!(["computed", "skipped", "failed", "edge"].map(count), [1, 2, 2, 1]);
        assert!(svg.contains("viewBox=\"0 0 58 24\""));
        // The edge stands in the gap between the steps.
        assert!(svg.contains("class=\"edge\" x=\"23\""), "{svg}");
    }
}
