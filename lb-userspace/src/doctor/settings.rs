//! What the kernel's network settings do to forwarded packets.

use super::Finding;
use super::facts::{Facts, Forwarding, Link, Plan};

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
    let ((low, high), (first, last)) = (local?, plan.full_nat_ports);
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
    let wrong = wrong_settings(name, link, plan);
    if !plan.is_attached {
        let settings: Vec<&str> = wrong.iter().map(|(setting, _)| setting.as_str()).collect();
        let what = format!("`pglb run` will set {}", settings.join(", "));
        let is_any = !wrong.is_empty();
        return is_any
            .then(|| Finding::ok(&subject, what))
            .into_iter()
            .collect();
    }
    let tell = |(setting, why): (String, &str)| {
        let (key, value) = setting.split_once('=').unwrap_or((&setting, ""));
        let what = format!("{key} is not {value}: {why}");
        let remedy =
            format!("sysctl -w {setting}, and look in /etc/sysctl.d for what has set it otherwise");
        Finding::problem(&subject, what, remedy)
    };
    wrong.into_iter().map(tell).collect()
}

/// The settings that are not as they must be, as `sysctl` takes them, and what happens meanwhile.
fn wrong_settings(name: &str, link: &Link, plan: &Plan) -> Vec<(String, &'static str)> {
    let settings = link.settings;
    let mut wrong = Vec::new();
    if settings.forwarding == Some(0) {
        wrong.push((
            format!("net.ipv4.conf.{name}.forwarding=1"),
            "packets that arrive here are not forwarded (net.ipv4.ip_forward=0 does that to every \
             interface)",
        ));
    }
    if settings.reverse_path == Some(STRICT) {
        wrong.push((
            format!("net.ipv4.conf.{name}.rp_filter=2"),
            "it is strict, here or for all, and packets that come in by another way than the one \
             back are dropped",
        ));
    }
    if settings.accept_local == Some(0) {
        wrong.push((
            format!("net.ipv4.conf.{name}.accept_local=1"),
            "first replies to a client come from the VIP, an address of this host, and are dropped",
        ));
    }
    if settings.send_redirects == Some(1) {
        wrong.push((
            format!("net.ipv4.conf.{name}.send_redirects=0"),
            "it is 1, here or for all, and a backend that shares a subnet with its clients is told \
             to answer them past this gateway",
        ));
    }
    if plan.has_ipv6 && settings.forwarding_v6 == Some(0) {
        wrong.push((
            "net.ipv6.conf.all.forwarding=1".to_owned(),
            "IPv6 packets that arrive here are not forwarded",
        ));
    }
    wrong
}
