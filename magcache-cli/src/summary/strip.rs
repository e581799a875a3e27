//! The skip pattern of a run as a line of marks.

use std::collections::BTreeSet;

use magcache_core::{
    Branch, Trajectory, Why,
    log::{DecisionLog, Record},
};

/// One line per branch: `#` computed, `.` skipped, `!` a failsafe, `-` a step without this branch; `|` marks
/// where the second expert begins, `/` where another clip does.
pub(crate) fn strips(log: &DecisionLog, run: &Trajectory) -> Vec<(Branch, String)> {
    let of = |branch: &Branch| (*branch, strip(log, run, *branch, &|r| r.module.is_none()));
    run.branches.iter().map(of).collect()
}

/// The same, then one line per module inside the blocks and branch, followed by the module's name: `.` where
/// its output was forecast in any block.
pub(crate) fn lines(log: &DecisionLog, run: &Trajectory) -> Vec<(Branch, String)> {
    let modules: BTreeSet<&str> = log.records().iter().filter_map(|r| r.module.as_deref()).collect();
    let mut lines = strips(log, run);
    for module in modules {
        let of = |branch: &Branch| {
            (*branch, strip(log, run, *branch, &|r| r.module.as_deref() == Some(module)) + " " + module)
        };
        lines.extend(run.branches.iter().map(of));
    }
    lines
}

/// True if something around blocks or the forward was skipped.
pub(crate) fn skips(log: &DecisionLog, step: usize, branch: Branch) -> bool {
    let here = |r: &&Record| r.step == step && r.branch == branch && r.module.is_none();
    log.records().iter().filter(here).any(reuses)
}

fn reuses(record: &Record) -> bool {
    record.reused && record.why != Why::OuterCache
}

fn strip(log: &DecisionLog, run: &Trajectory, branch: Branch, counts: &dyn Fn(&Record) -> bool) -> String {
    let mark = |place: usize| {
        let here = || log.records().iter().filter(|r| r.step == place && r.branch == branch && counts(r));
        if here().any(|r| r.why.is_failsafe()) {
            '!'
        } else if here().any(reuses) {
            '.'
        } else {
            '#'
        }
    };
    let mut line = String::new();
    for step in run.steps() {
        if step.clip > 0 && step.index == run.first {
            line.push('/');
        } else if step.index > run.first && step.index == step.phase.start {
            line.push('|');
        }
        line.push(if run.branches_at(&step).contains(&branch) { mark(step.place()) } else { '-' });
    }
    line
}
