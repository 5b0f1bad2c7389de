//! What this process may do, asked before anything is tried.

use anyhow::{Result, bail};

/// The capabilities that the controller needs, with their numbers in `linux/capability.h`.
const NEEDED: [(&str, u32); 4] = [
    ("CAP_NET_ADMIN", 12),
    ("CAP_NET_RAW", 13),
    ("CAP_PERFMON", 38),
    ("CAP_BPF", 39),
];
/// What stands for `CAP_PERFMON` and `CAP_BPF` as well.
const SYS_ADMIN: u32 = 21;

/// Refuses to go on without the needed capabilities, in one sentence.
pub fn require(command: &str) -> Result<()> {
    let missing = missing();
    if !missing.is_empty() {
        bail!(
            "`pglb {command}` needs root, or the capabilities {}",
            missing.join(", ")
        );
    }
    Ok(())
}

/// The needed capabilities that this process does not have.
pub fn missing() -> Vec<&'static str> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = effective(&status);
    NEEDED
        .into_iter()
        .filter(|(_, number)| {
            let stands_in = *number > 37 && has(effective, SYS_ADMIN);
            !has(effective, *number) && !stands_in
        })
        .map(|(name, _)| name)
        .collect()
}

fn has(capabilities: u64, number: u32) -> bool {
    capabilities & 1 << number != 0
}

/// The effective capabilities by the text of `/proc/self/status`; none when it does not tell.
fn effective(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_what_is_allowed() {
        assert_eq!(
            effective("Name:\tpglb\nCapEff:\t000000c000003000\n"),
            0xc0_0000_3000
        );
        assert!(
            NEEDED
                .iter()
                .all(|(_, number)| has(0xc0_0000_3000, *number))
        );
        assert_eq!(effective("Name:\tpglb\n"), 0);
    }
}
