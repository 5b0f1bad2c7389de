//! What the kernel's network settings do to forwarded packets.

use super::Finding;
use super::facts::{Facts, Forwarding, Link, Plan};

/// The ports that `full-nat` gives to its connections, both ends included.
const FULL_NAT_PORTS: (u16, u16) = (1024, 32_767);
/// Ask the way back by the interface that a packet came in by.
const STRICT: u8 = 1;

/// Judges the settings of the host; those of an interface are in [`judge_interface`].
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let Some(plan) = &facts.plan else {
        return Vec::new();
    };
    judge_ports(plan, facts.host.local_ports)
        .into_iter()
        .collect()
}

fn judge_ports(plan: &Plan, local: Option<(u16, u16)>) -> Option<Finding> {
    const SUBJECT: &str = "ports";
    if !plan.forwards_by(Forwarding::FullNat) {
        return None;
    }
    let ((low, high), (first, last)) = (local?, FULL_NAT_PORTS);
    let meets = low <= last && first <= high;
    Some(if meets {
        Finding::problem(
            SUBJECT,
            format!(
                "this host's own connections take ports {low} to {high} \
                 (net.ipv4.ip_local_port_range), and full-nat {first} to {last}: one may get the \
                 other's replies"
            ),
            format!(
                "sysctl -w net.ipv4.ip_local_port_range=\"{} 60999\", and write it to /etc/sysctl.d",
                last.saturating_add(1)
            ),
        )
    } else {
        Finding::ok(
            SUBJECT,
            format!("full-nat has {first} to {last}, this host's own connections {low} to {high}"),
        )
    })
}

/// Judges the settings of one interface.
///
/// `pglb run` sets them when it starts, so before that they matter to nobody; while it runs they
/// can only have been changed again by something else.
pub(super) fn judge_interface(name: &str, link: &Link, plan: &Plan) -> Vec<Finding> {
    let subject = format!("interface {name}");
    let mut findings: Vec<Finding> = if plan.is_attached {
        let wrong = wrong_settings(link).map(|(key, value, why)| {
            let what = format!("net.ipv4.conf.{name}.{key} is not {value}: {why}");
            let remedy = format!(
                "sysctl -w net.ipv4.conf.{name}.{key}={value}, and look in /etc/sysctl.d for what \
                 has set it otherwise"
            );
            Finding::problem(&subject, what, remedy)
        });
        wrong.collect()
    } else {
        let keys: Vec<String> = wrong_settings(link)
            .map(|(key, value, _)| format!("{key}={value}"))
            .collect();
        let what = format!(
            "`pglb run` will set {} in net.ipv4.conf.{name}",
            keys.join(", ")
        );
        (!keys.is_empty())
            .then(|| Finding::ok(&subject, what))
            .into_iter()
            .collect()
    };
    findings.extend(judge_ipv6(&subject, name, link, plan));
    findings
}

/// The settings that are not as they must be: key, value, and what happens meanwhile.
fn wrong_settings(link: &Link) -> impl Iterator<Item = (&'static str, u8, &'static str)> {
    let settings = link.settings;
    let forwarding = (
        "forwarding",
        1,
        "packets that arrive here are not forwarded (net.ipv4.ip_forward=0 does that to every interface)",
    );
    let reverse_path = (
        "rp_filter",
        2,
        "it is strict, here or for all, and packets that come in by another way than the one back \
         are dropped",
    );
    let accept_local = (
        "accept_local",
        1,
        "first replies to a client come from the VIP, an address of this host, and are dropped",
    );
    [
        (settings.forwarding == Some(0)).then_some(forwarding),
        (settings.reverse_path == Some(STRICT)).then_some(reverse_path),
        (settings.accept_local == Some(0)).then_some(accept_local),
    ]
    .into_iter()
    .flatten()
}

fn judge_ipv6(subject: &str, name: &str, link: &Link, plan: &Plan) -> Option<Finding> {
    let has_ipv6 = plan.services.iter().any(|service| service.vip.is_ipv6());
    if !has_ipv6 || link.settings.forwarding_v6? != 0 {
        return None;
    }
    let what = format!(
        "net.ipv6.conf.{name}.forwarding or that of all is 0: IPv6 packets that arrive here are \
         not forwarded"
    );
    let remedy = "sysctl -w net.ipv6.conf.all.forwarding=1, and write it to /etc/sysctl.d";
    Some(if plan.is_attached {
        Finding::problem(subject, what, remedy)
    } else {
        Finding::warning(subject, what, remedy)
    })
}
