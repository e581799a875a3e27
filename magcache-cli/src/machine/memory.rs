//! Memory use of the process.

/// The peak memory of the process so far, in bytes (`VmHWM` on Linux): of everything it did, including
/// weights and all lanes. `None` on other systems.
pub(crate) fn peak_resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    parse(&status)
}

/// Parses the line `VmHWM:   123456 kB` into bytes.
fn parse(status: &str) -> Option<usize> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_the_line_of_the_high_water_mark() {
        let status = "Name:\tx\nVmPeak:\t  900 kB\nVmHWM:\t  123 kB\nVmRSS:\t  100 kB\n";
        assert_eq!(parse(status), Some(123 * 1024));
        assert_eq!(parse("VmHWM:\t many\n"), None);
        assert_eq!(parse(""), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_one() {
        // Memory that is never accessed is never allocated.
        let held = std::hint::black_box(vec![1u8; 64 << 20]);
        let peak = peak_resident().expect("Linux says so");
        assert!(peak >= held.len() * 9 / 10, "{peak} bytes, {} are held", held.len());
    }
}
