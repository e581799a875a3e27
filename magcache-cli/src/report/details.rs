//! What was run, and on what.

use super::html::{class, escape, facts, name, scrolling};
use crate::{
    compare::{
        Compared,
        row::{Role, Row},
    },
    summary,
};

/// What reproduces each lane.
pub(super) fn configurations(compared: &Compared) -> String {
    let rows = compared.rows.iter().filter(|row| row.role != Role::Baseline);
    let one = |row: &Row| {
        let pre = scrolling(
            &format!("Configuration of {}", row.name),
            &format!("<pre>{}</pre>", escape(&row.config)),
        );
        format!(
            "<details class=\"{}\"><summary>{}</summary>{pre}</details>",
            class(&compared.rows, row),
            name(&compared.rows, row)
        )
    };
    let list: String = rows.map(one).collect();
    format!(
        "<p>Each reproduces its lane: <code>magcache run --config FILE</code>. The same files lie beside this page.</p>{list}"
    )
}

/// Where it ran.
pub(super) fn machine(compared: &Compared) -> String {
    let machine = &compared.machine;
    let mut list = vec![
        ("Cores", machine.cores.to_string()),
        ("Threads", machine.threads.to_string()),
        ("Device", machine.device.clone()),
        ("System", machine.system.clone()),
        ("magcache", machine.version.to_owned()),
    ];
    list.extend(machine.cpu.clone().map(|cpu| ("Processor", cpu)));
    list.extend(compared.peak_memory.map(|n| ("Memory at the peak, whole process", summary::bytes(n))));
    facts(list)
}
