//! What the kernel of a namespace has counted by itself.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{family::Family, namespace::Namespace};

/// Packets of one interface, whoever handled them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packets {
    /// That came in.
    pub received: u64,
    /// That went out.
    pub sent: u64,
}

impl Packets {
    /// Those of an interface since an earlier look at it.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            received: self.received - earlier.received,
            sent: self.sent - earlier.sent,
        }
    }
}

impl Namespace {
    /// The packets of an interface since it was made.
    pub fn packets(&self, interface: &str) -> Result<Packets> {
        let shown = self.run(&format!("ip -s -j link show dev {interface}"))?;
        let shown: Value = serde_json::from_str(&shown)?;
        let count = |way: &str| {
            let count = shown[0]["stats64"][way]["packets"].as_u64();
            count.with_context(|| format!("{interface} has no {way} packets"))
        };
        Ok(Packets {
            received: count("rx")?,
            sent: count("tx")?,
        })
    }

    /// Packets of a family that the kernel has forwarded: those that XDP did not.
    pub fn forwarded(&self, family: Family) -> Result<u64> {
        let (file, name) = match family {
            Family::V4 => ("/proc/net/snmp", "ForwDatagrams"),
            Family::V6 => ("/proc/net/snmp6", "Ip6OutForwDatagrams"),
        };
        let text = self.run(&format!("cat {file}"))?;
        find(&text, name).with_context(|| format!("{file} has no {name}"))
    }
}

/// A number of `/proc/net/snmp`, where a line of names stands above one of numbers, or of `snmp6`, where each has a
/// line.
fn find(text: &str, name: &str) -> Option<u64> {
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let (row, column) = lines.iter().enumerate().find_map(|(row, words)| {
        let column = words.iter().position(|word| *word == name)?;
        Some((row, column))
    })?;
    let number = match column {
        0 => lines[row].get(1),
        _ => lines.get(row + 1)?.get(column),
    };
    number?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_files_are_read() {
        let rows = "Ip: Forwarding DefaultTTL ForwDatagrams\nIp: 1 64 17\nIcmp: InMsgs\nIcmp: 3\n";
        assert_eq!(find(rows, "ForwDatagrams"), Some(17));
        let lines = "Ip6InReceives   5\nIp6OutForwDatagrams    9\n";
        assert_eq!(find(lines, "Ip6OutForwDatagrams"), Some(9));
        assert_eq!(find(lines, "ForwDatagrams"), None);
    }
}
