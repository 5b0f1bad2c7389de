//! The host: kernel, BPF, privileges.

use super::Finding;
use super::facts::{Bpffs, Host, Trial};

/// The oldest kernel that pglb is meant for.
const OLDEST: (u32, u32) = (5, 15);

/// Judges the host.
pub(super) fn judge(host: &Host) -> Vec<Finding> {
    [
        judge_kernel(host),
        judge_trial(host),
        judge_jit(host),
        judge_bpffs(host),
        judge_privileges(host),
        judge_tracking(host),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn judge_kernel(host: &Host) -> Option<Finding> {
    const SUBJECT: &str = "kernel";
    let release = &host.release;
    let remedy = "boot Linux 5.15 or newer";
    let Some(version) = version(release) else {
        return Some(Finding::unseen(
            SUBJECT,
            format!("its release {release:?} is no version"),
            remedy,
        ));
    };
    if version < OLDEST {
        let what = format!("Linux {release} is older than 5.15");
        return Some(Finding::problem(SUBJECT, what, remedy));
    }
    if !host.has_btf {
        return Some(Finding::problem(
            SUBJECT,
            format!("Linux {release} has no /sys/kernel/btf/vmlinux"),
            "boot a kernel that is built with CONFIG_DEBUG_INFO_BTF",
        ));
    }
    Some(Finding::ok(SUBJECT, format!("Linux {release} with BTF")))
}

/// Major and minor version of a release such as `6.1.0-30-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|it: char| !it.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn judge_trial(host: &Host) -> Option<Finding> {
    const SUBJECT: &str = "XDP program";
    Some(match &host.trial {
        Trial::Accepted => Finding::ok(SUBJECT, "the kernel accepts it"),
        Trial::Rejected(why) => Finding::problem(
            SUBJECT,
            why.clone(),
            "boot Linux 5.15 or newer with CONFIG_BPF_SYSCALL, CONFIG_BPF_JIT and CONFIG_XDP_SOCKETS; \
             where it is that, report this line",
        ),
        Trial::NotTried(why) => Finding::unseen(
            SUBJECT,
            format!("it was not tried whether the kernel accepts it: {why}"),
            "run `pglb doctor` as root",
        ),
    })
}

fn judge_jit(host: &Host) -> Option<Finding> {
    (host.jit? == 0).then(|| {
        Finding::warning(
            "BPF compiler",
            "net.core.bpf_jit_enable is 0: the program is interpreted, several times slower",
            "sysctl -w net.core.bpf_jit_enable=1, and write it to /etc/sysctl.d",
        )
    })
}

fn judge_bpffs(host: &Host) -> Option<Finding> {
    const SUBJECT: &str = "BPF file system";
    Some(match host.bpffs {
        Bpffs::Mounted => Finding::ok(SUBJECT, "mounted"),
        Bpffs::Mountable => Finding::ok(SUBJECT, "not mounted yet, `pglb run` does it"),
        Bpffs::Absent => Finding::problem(
            SUBJECT,
            "the kernel has none",
            "boot a kernel that is built with CONFIG_BPF_SYSCALL",
        ),
    })
}

fn judge_privileges(host: &Host) -> Option<Finding> {
    let missing = &host.missing_capabilities;
    (!missing.is_empty()).then(|| {
        Finding::unseen(
            "privileges",
            format!(
                "without {} this command does not see everything, and `pglb run` does not start",
                missing.join(", ")
            ),
            "run `pglb doctor` as root",
        )
    })
}

fn judge_tracking(host: &Host) -> Option<Finding> {
    host.tracks_connections.then(|| {
        Finding::advice(
            "firewall",
            "connection tracking is on, and sees only those packets of pglb's connections whose \
             next hop the kernel has to resolve first",
            "let no rule drop packets between clients, VIPs and backends for the state INVALID",
        )
    })
}
