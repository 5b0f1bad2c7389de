//! Packets that get lost on the way, as on a bad wire.

use anyhow::{Context as _, Result};

use crate::namespace::Namespace;

impl Namespace {
    /// Has an interface lose so many of a thousand packets, at random: of those that it receives (`ingress`), of those
    /// that it sends (`egress`), or of both.
    ///
    /// The kernel may have no `netem`, so a classic BPF filter draws lots.
    pub fn lose(&self, interface: &str, ways: &[&str], of_a_thousand: u32) -> Result<()> {
        let limit = u32::MAX / 1_000 * (1_000 - of_a_thousand);
        // Load a random number; if it is not below the limit, TC_ACT_SHOT, else TC_ACT_OK.
        let program = format!("4,32 0 0 {RANDOM},53 0 1 {limit},6 0 0 2,6 0 0 0");
        self.run(&format!("tc qdisc add dev {interface} clsact"))
            .context("this kernel cannot lose packets (CONFIG_NET_CLS_ACT)")?;
        for way in ways {
            let mut filter = self.command("tc");
            filter.args([
                "filter", "add", "dev", interface, way, "bpf", "da", "bytecode", &program,
            ]);
            crate::command::run(&mut filter)
                .context("this kernel cannot lose packets (CONFIG_NET_CLS_BPF)")?;
        }
        Ok(())
    }
}

/// Where classic BPF finds a random number: `SKF_AD_OFF + SKF_AD_RANDOM` (include/uapi/linux/filter.h).
const RANDOM: u32 = 0xffff_f000 + 56;
