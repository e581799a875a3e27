//! The skip pattern of a run as a line of marks.

use magcache_core::{Branch, DecisionLog, Trajectory, Why};

/// One line for each branch: `#` computed, `.` skipped, `!` a failsafe, `-` a step without this branch; `|` stands
/// where the second expert begins.
pub(crate) fn strips(log: &DecisionLog, run: &Trajectory) -> Vec<(Branch, String)> {
    run.branches.iter().map(|branch| (*branch, strip(log, run, *branch))).collect()
}

fn strip(log: &DecisionLog, run: &Trajectory, branch: Branch) -> String {
    let mark = |index: usize| {
        let here = || log.records().iter().filter(|r| r.step == index && r.branch == branch);
        if here().any(|r| r.why.is_failsafe()) {
            '!'
        } else if here().any(|r| r.reused && r.why != Why::OuterCache) {
            '.'
        } else {
            '#'
        }
    };
    let mut line = String::new();
    for step in run.steps() {
        if step.index > run.first && step.index == step.phase.start {
            line.push('|');
        }
        line.push(if run.branches_at(&step).contains(&branch) { mark(step.index) } else { '-' });
    }
    line
}
