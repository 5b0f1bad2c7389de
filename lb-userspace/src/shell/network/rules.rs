//! Whether the way to a receiver depends on more than the receiver (policy routing, ip-rule(8)).

use rtnetlink::packet_route::rule::{RuleAttribute, RuleMessage};

/// Whether the rule looks at anything of a packet but its receiver: then two packets to one receiver
/// may go different ways. The three rules that every host has do not.
pub(super) fn is_selective(rule: &RuleMessage) -> bool {
    let is_harmless = |attribute: &RuleAttribute| {
        matches!(
            attribute,
            RuleAttribute::Destination(_)
                | RuleAttribute::Goto(_)
                | RuleAttribute::Priority(_)
                | RuleAttribute::Protocol(_)
                | RuleAttribute::SuppressIfGroup(_)
                | RuleAttribute::SuppressPrefixLen(_)
                | RuleAttribute::Table(_)
        )
    };
    rule.header.src_len != 0 || rule.header.tos != 0 || !rule.attributes.iter().all(is_harmless)
}
