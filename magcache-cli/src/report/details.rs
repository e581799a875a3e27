//! The configurations that were run, and the machine.

use maud::{Markup, html};

use super::html::{class, facts, name, scrolling};
use crate::{
    compare::{Compared, row::Role},
    summary,
};

/// The configuration that reproduces each lane.
pub(super) fn configurations(compared: &Compared<'_>) -> Markup {
    let all = &compared.rows;
    html! {
        p {
            "Each reproduces its lane: " code { "magcache run --config FILE" }
            ". The same files lie beside this page."
        }
        @for row in all.iter().filter(|row| row.role != Role::Baseline) {
            details class=(class(all, row)) {
                summary { (name(all, row)) }
                (scrolling(&format!("Configuration of {}", row.name), &html! { pre { (row.config) } }))
            }
        }
    }
}

/// The machine that it ran on.
pub(super) fn machine(compared: &Compared<'_>) -> Markup {
    let machine = &compared.machine;
    let mut list = vec![
        ("Cores", machine.cores.to_string()),
        ("Threads", machine.threads.to_string()),
        ("Device", machine.device.clone()),
        ("System", machine.system.clone()),
        (crate::PROGRAM, machine.version.to_owned()),
    ];
    list.extend(machine.cpu.clone().map(|cpu| ("Processor", cpu)));
    list.extend(compared.peak_memory.map(|n| ("Memory at the peak, whole process", summary::bytes(n))));
    facts(list)
}
