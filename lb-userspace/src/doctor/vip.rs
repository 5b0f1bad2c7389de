//! A VIP: has another host on the network the same address.

use super::Finding;
use super::facts::{Elsewhere, Facts, Forwarding, Vip};

/// Judges one VIP.
pub(super) fn judge(vip: &Vip, facts: &Facts) -> Vec<Finding> {
    let subject = format!("vip {}", vip.address);
    let mut findings = vec![judge_conflict(&subject, vip, facts)];
    findings.extend(remind_of_dsr(&subject, vip, facts));
    findings
}

fn judge_conflict(subject: &str, vip: &Vip, facts: &Facts) -> Finding {
    let manages = facts.plan.as_ref().is_some_and(|plan| plan.manages_vip);
    match &vip.elsewhere {
        Elsewhere::Nobody(interface) => {
            Finding::ok(subject, format!("no other host on {interface} has it"))
        }
        Elsewhere::Routed => {
            let what =
                "in no subnet of an interface here: clients need a route to it by this gateway";
            Finding::advice(subject, what, "nothing, when the routers have that route")
        }
        Elsewhere::Unknown(why) => Finding::unseen(
            subject,
            format!("it was not asked whether another host has it: {why}"),
            "run `pglb doctor` as root",
        ),
        Elsewhere::Owner(interface, mac) => {
            let owner = format!("a host with MAC {} on {interface}", text_of(mac));
            // Without `manage_vip` it may be where it belongs: on the other gateway.
            if !manages && vip.here.is_none() {
                let remedy = "nothing, when that is the gateway in service";
                return Finding::advice(subject, format!("{owner} has it now"), remedy);
            }
            let mut remedy =
                "take the address off that host, or give the service another VIP".to_owned();
            if is_dsr(vip, facts) {
                remedy.push_str(&format!("; if it is a backend: {}", silence_of(vip)));
            }
            let what = format!("{owner} has it too: clients reach either, by chance");
            Finding::problem(subject, what, remedy)
        }
    }
}

/// What cannot be seen from here.
fn remind_of_dsr(subject: &str, vip: &Vip, facts: &Facts) -> Option<Finding> {
    is_dsr(vip, facts).then(|| {
        let prefix = if vip.address.is_ipv4() { 32 } else { 128 };
        Finding::advice(
            subject,
            "dsr: every backend needs it too, and must be silent about it; that cannot be seen from here",
            format!(
                "on each backend: ip address add {}/{prefix} dev lo, and {}",
                vip.address,
                silence_of(vip)
            ),
        )
    })
}

/// How a backend keeps from answering for an address on its loopback. Linux answers neighbour
/// solicitations only for addresses of the interface that they come in by.
fn silence_of(vip: &Vip) -> &'static str {
    if vip.address.is_ipv4() {
        "sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2"
    } else {
        "have it on no other interface"
    }
}

fn is_dsr(vip: &Vip, facts: &Facts) -> bool {
    let mut services = facts.plan.iter().flat_map(|plan| &plan.services);
    services.any(|service| service.vip.ip() == vip.address && service.forwarding == Forwarding::Dsr)
}

fn text_of(mac: &[u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
