//! ICMP echo, by hand: `ping` is not on every machine.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket,
    sockopt::{Timeout, set_socket_timeout},
};

use crate::{clock, namespace::Namespace};

/// Sends an echo request of `size` bytes out of a namespace, and waits for its reply.
pub fn ping(host: &Namespace, target: IpAddr, size: usize) -> Result<Duration> {
    host.enter(|| ask(target, size))?
        .with_context(|| format!("{target} answers no echo of {size} bytes"))
}

const LIMIT: Duration = Duration::from_secs(1);
const IPV4_HEADER: usize = 20;
const IDENTIFIER: [u8; 4] = [0x70, 0x67, 0x6c, 0x62];

fn ask(target: IpAddr, size: usize) -> io::Result<Duration> {
    let (family, protocol, kinds, header) = match target {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP, (8, 0), IPV4_HEADER),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6, (128, 129), 0),
    };
    let socket = socket(family, SocketType::RAW, Some(protocol))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(LIMIT))?;
    let mut request = vec![kinds.0, 0, 0, 0];
    request.extend(IDENTIFIER);
    request.extend((0..size).map(|index| u8::try_from(index % 251).unwrap_or(0)));
    // The kernel fills in the one of IPv6.
    let sum = checksum(&request);
    request[2..4].copy_from_slice(&sum);
    let started = clock::now();
    sendto(
        &socket,
        &request,
        SendFlags::empty(),
        &SocketAddr::new(target, 0),
    )?;
    let mut buffer = vec![0; 65_536];
    loop {
        let (length, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        let reply = &buffer[header.min(length)..length];
        if reply.first() == Some(&kinds.1) && reply.get(4..) == request.get(4..) {
            return Ok(started.elapsed());
        }
        if started.elapsed() > LIMIT {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        u32::from(u16::from_be_bytes([pair[0], low]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    (!u16::try_from(sum).unwrap_or(0)).to_be_bytes()
}
