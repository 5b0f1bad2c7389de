//! A packet as one line of text.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::filter::{Direction, Owner};
use super::headers::{Headers, Mac, Payload, Segment};
use super::packet::{Frame, Outcome, Packet};

/// Backends by address, for people.
pub type Names = Vec<(SocketAddr, String)>;

/// The line: time (UTC), service, client, direction, what it is, and what became of it.
pub fn line(packet: &Packet, owner: &Owner, at: SystemTime) -> String {
    let service = owner.service.as_deref().unwrap_or("?");
    let direction = match owner.direction {
        Direction::ToBackend => "to backend",
        Direction::ToClient => "to client",
    };
    let mut line = format!("{} {service} {} {direction}", time_of_day(at), owner.client);
    let Some(before) = Headers::read(&packet.before.bytes) else {
        return line;
    };
    // Writing to a String does not fail.
    let _ = write!(line, " {}: {}", content(&before), ends(&before));
    line + " => " + &outcome(packet, &before)
}

/// What became of the packet, for the packet as it came.
fn outcome(packet: &Packet, before: &Headers) -> String {
    let reason = reason(packet);
    match &packet.outcome {
        Outcome::Forwarded(frame) => match Headers::read(&frame.bytes) {
            Some(after) if ends(&after) == ends(before) => {
                format!("the same, to {}", written(after.destination_mac))
            }
            Some(after) => ends(&after),
            None => "forwarded".to_owned(),
        },
        Outcome::Answered(frame) => format!("{}{reason}", answer(frame)),
        Outcome::Dropped => format!("dropped{reason}"),
    }
}

/// What a file says of a packet as it came, and of what left.
pub fn comments(packet: &Packet, owner: &Owner, names: &Names) -> (String, String) {
    let service = owner.service.as_deref().unwrap_or("?");
    let reason = reason(packet);
    let (before, after) = match &packet.outcome {
        Outcome::Forwarded(frame) => {
            let receiver = receiver(frame, owner, names);
            ("before".to_owned(), format!("after, to {receiver}"))
        }
        Outcome::Answered(frame) => (
            format!("{}{reason}", answer(frame)),
            format!("the answer{reason}"),
        ),
        Outcome::Dropped => (format!("dropped{reason}"), String::new()),
    };
    (
        format!("{service}, {before}"),
        format!("{service}, {after}"),
    )
}

fn reason(packet: &Packet) -> String {
    let reason = packet.reason.map(|reason| format!(" ({})", reason.label()));
    reason.unwrap_or_default()
}

/// What an answer is.
fn answer(frame: &Frame) -> &'static str {
    match Headers::read(&frame.bytes).map(|headers| headers.payload) {
        Some(Payload::Tcp(segment)) if segment.flags & RST != 0 => "refused by RST",
        Some(Payload::Icmp { .. }) => "answered by ICMP",
        Some(Payload::Tcp(_) | Payload::Other(_)) | None => "answered",
    }
}

/// Where a forwarded packet went: the backend's name or address, or the client.
fn receiver(frame: &Frame, owner: &Owner, names: &Names) -> String {
    if owner.direction == Direction::ToClient {
        return "client".to_owned();
    }
    let Some(headers) = Headers::read(&frame.bytes) else {
        return "backend".to_owned();
    };
    let to = headers.endpoints().map(|(_, destination)| destination);
    let is_it = |address: &SocketAddr| match to {
        Some(to) => *address == to,
        None => address.ip() == headers.destination,
    };
    match names.iter().find(|(address, _)| is_it(address)) {
        Some((_, name)) => name.clone(),
        None => written(headers.destination_mac),
    }
}

fn content(headers: &Headers) -> String {
    match &headers.payload {
        Payload::Tcp(segment) => format!(
            "{} seq {} ack {} win {} len {}",
            flags(segment),
            segment.sequence,
            segment.acknowledgment,
            segment.window,
            segment.length
        ),
        Payload::Icmp { kind, .. } => format!("ICMP type {kind}"),
        Payload::Other(protocol) => format!("protocol {protocol}"),
    }
}

fn ends(headers: &Headers) -> String {
    let tags = headers.vlans.iter().map(|tag| format!("vlan {tag} "));
    let tags: String = tags.collect();
    match headers.endpoints() {
        Some((source, destination)) => format!("{tags}{source} > {destination}"),
        None => format!("{tags}{} > {}", headers.source, headers.destination),
    }
}

const RST: u8 = 4;

fn flags(segment: &Segment) -> String {
    const NAMES: [(u8, &str); 6] = [
        (2, "SYN"),
        (1, "FIN"),
        (RST, "RST"),
        (8, "PSH"),
        (32, "URG"),
        (16, "ACK"),
    ];
    let set = NAMES.iter().filter(|(bit, _)| segment.flags & bit != 0);
    let names: Vec<&str> = set.map(|(_, name)| *name).collect();
    if names.is_empty() {
        return "-".to_owned();
    }
    names.join("+")
}

fn written(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// `09:14:03.000123`, in UTC.
fn time_of_day(at: SystemTime) -> String {
    const DAY: u64 = 86_400;
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let second = since.as_secs() % DAY;
    let (hours, minutes, seconds) = (second / 3600, second / 60 % 60, second % 60);
    let micros = since.subsec_micros();
    format!("{hours:02}:{minutes:02}:{seconds:02}.{micros:06}")
}

#[cfg(test)]
mod tests {
    use lb_common::reason::Reason;

    use super::super::filter::Filter;
    use super::super::filter::tests::{CLIENT, PG2, RO, packet, services};
    use super::super::headers::tests::{frame, tagged};
    use super::super::packet::tests::{DROP, REDIRECT, TX};
    use super::*;

    fn shown(packet: &Packet) -> String {
        let owner = Filter::new(services(), None, None).sort(packet).unwrap();
        let at = UNIX_EPOCH + Duration::new(86_400 * 3 + 33_243, 123_999);
        line(packet, &owner, at)
    }

    #[test]
    fn lines_say_what_came_and_what_became_of_it() {
        let syn = frame(CLIENT, RO, "S", b"");
        let sent = frame(CLIENT, PG2, "S", b"");
        assert_eq!(
            shown(&packet(&syn, &sent, REDIRECT)),
            "09:14:03.000123 orders-ro 10.71.0.10:41022 to backend SYN seq 1000 ack 77 win 64240 \
             len 0: 10.71.0.10:41022 > 10.71.0.100:5433 => 10.71.0.10:41022 > 10.72.0.12:5432"
        );
        assert_eq!(
            shown(&packet(&syn, &syn, TX)),
            "09:14:03.000123 orders-ro 10.71.0.10:41022 to backend SYN seq 1000 ack 77 win 64240 \
             len 0: 10.71.0.10:41022 > 10.71.0.100:5433 => the same, to 02:00:00:00:00:02"
        );
        let data = frame(PG2, CLIENT, "PA", b"row");
        let sent = frame(RO, CLIENT, "PA", b"row");
        assert_eq!(
            shown(&packet(&data, &sent, TX)),
            "09:14:03.000123 orders-ro 10.71.0.10:41022 to client PSH+ACK seq 1000 ack 77 win \
             64240 len 3: 10.72.0.12:5432 > 10.71.0.10:41022 => 10.71.0.100:5433 > 10.71.0.10:41022"
        );
    }

    #[test]
    fn tags_stand_before_the_ends() {
        let came = tagged(&[7, 8], CLIENT, RO, "S", b"");
        let left = tagged(&[9], CLIENT, PG2, "S", b"");
        let line = shown(&packet(&came, &left, REDIRECT));
        let ends = ": vlan 7 vlan 8 10.71.0.10:41022 > 10.71.0.100:5433 \
                    => vlan 9 10.71.0.10:41022 > 10.72.0.12:5432";
        assert!(line.ends_with(ends), "{line}");
    }

    #[test]
    fn what_is_not_forwarded_says_why() {
        let syn = frame(CLIENT, RO, "S", b"");
        let refusal = frame(RO, CLIENT, "RA", b"");
        let refused = packet(&syn, &refusal, TX);
        assert!(shown(&refused).ends_with("10.71.0.100:5433 => refused by RST"));
        let refused = Packet {
            reason: Some(Reason::NoBackend),
            ..refused
        };
        assert!(shown(&refused).ends_with("=> refused by RST (no_backend)"));
        let dropped = Packet {
            reason: Some(Reason::HopLimit),
            ..packet(&syn, &syn, DROP)
        };
        assert!(shown(&dropped).ends_with("=> dropped (hop_limit)"));
    }

    #[test]
    fn a_file_names_service_and_receiver() {
        let names: Names = vec![(PG2.parse().unwrap(), "pg2".to_owned())];
        let comments_of = |packet: &Packet| {
            let owner = Filter::new(services(), None, None).sort(packet).unwrap();
            comments(packet, &owner, &names)
        };
        let syn = frame(CLIENT, RO, "S", b"");
        let reply = frame(PG2, CLIENT, "SA", b"");
        let refused = Packet {
            reason: Some(Reason::NoBackend),
            ..packet(&syn, &frame(RO, CLIENT, "RA", b""), TX)
        };
        for (packet, before, after) in [
            (
                packet(&syn, &frame(CLIENT, PG2, "S", b""), REDIRECT),
                "orders-ro, before",
                "orders-ro, after, to pg2",
            ),
            (
                packet(&syn, &syn, TX),
                "orders-ro, before",
                "orders-ro, after, to 02:00:00:00:00:02",
            ),
            (
                packet(&reply, &frame(RO, CLIENT, "SA", b""), TX),
                "orders-ro, before",
                "orders-ro, after, to client",
            ),
            (
                refused,
                "orders-ro, refused by RST (no_backend)",
                "orders-ro, the answer (no_backend)",
            ),
        ] {
            assert_eq!(comments_of(&packet), (before.into(), after.into()));
        }
    }
}
