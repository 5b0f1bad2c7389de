//! The tables of the reference programs, with the same connections in them as pglb has.

use std::net::SocketAddr;

use anyhow::Result;

use crate::feeder::Feeder;
use crate::frame::{self, Content, Family, build, octets};
use crate::world::{Connection, vip};

/// MAC addresses and the row of a counter: as good as any.
const MACS_AND_COUNTER: [u32; 4] = [0x0202_0202, 0x0303_0303, 0x0404_0404, 1];
/// The protocol, which stands behind the ports in a key.
const TCP: u32 = 6;

/// Lets the reference programs know these connections, in both directions.
pub(crate) fn fill(feeder: &mut Feeder, connections: &[Connection]) -> Result<()> {
    for (frame, new, is_source) in connections.iter().flat_map(flows) {
        match frame::kind(&frame) {
            Family::V4 => {
                let (key, entry) = (key::<4>(&frame), entry::<6>(new, is_source));
                feeder.hash("REFERENCE_V4")?.insert(key, entry, 0)?;
            }
            Family::V6 => {
                let (key, entry) = (key::<10>(&frame), entry::<9>(new, is_source));
                feeder.hash("REFERENCE_V6")?.insert(key, entry, 0)?;
            }
        }
    }
    Ok(())
}

/// Lets the reference programs know the service of a family, behind which they have one backend.
pub(crate) fn serve(feeder: &mut Feeder, family: Family, backend: SocketAddr) -> Result<()> {
    let vip = vip(family);
    match family {
        Family::V4 => {
            let (key, entry) = (service::<2>(vip), entry::<6>(backend, false));
            feeder.hash("SERVED_V4")?.insert(key, entry, 0)?;
        }
        Family::V6 => {
            let (key, entry) = (service::<5>(vip), entry::<9>(backend, false));
            feeder.hash("SERVED_V6")?.insert(key, entry, 0)?;
        }
    }
    Ok(())
}

/// Lets the ladder know these connections of IPv4, in both directions.
pub(crate) fn fill_ladder(feeder: &mut Feeder, connections: &[Connection]) -> Result<()> {
    for (frame, new, is_source) in connections.iter().flat_map(flows) {
        let (key, entry) = (key::<3>(&frame), entry::<12>(new, is_source));
        feeder.hash("LADDER")?.insert(key, entry, 0)?;
    }
    Ok(())
}

/// A packet of each direction, what replaces an end of it, and whether that is the source.
fn flows(connection: &Connection) -> [(Vec<u8>, SocketAddr, bool); 2] {
    let Connection { client, backend } = *connection;
    let vip = vip(Family::of(client));
    [
        (build(client, vip, Content::Data), backend, false),
        (build(backend, client, Content::Data), vip, true),
    ]
}

/// The first words of addresses, ports and protocol.
fn key<const WORDS: usize>(frame: &[u8]) -> [u32; WORDS] {
    let bytes = match frame::kind(frame) {
        Family::V4 => &frame[26..38],
        Family::V6 => &frame[22..58],
    };
    fill_words(words(bytes).chain([TCP]))
}

/// The words of a service's address, and its port.
fn service<const WORDS: usize>(vip: SocketAddr) -> [u32; WORDS] {
    let [p0, p1] = vip.port().to_be_bytes();
    let port = u32::from_ne_bytes([p0, p1, 0, 0]);
    fill_words(words(&octets(vip.ip())).chain([port]))
}

/// The new address, port and whether it is the source's; MAC addresses and counter.
fn entry<const WORDS: usize>(new: SocketAddr, is_source: bool) -> [u32; WORDS] {
    let address = octets(new.ip());
    let [p0, p1] = new.port().to_be_bytes();
    let port = u32::from_ne_bytes([p0, p1, u8::from(is_source), 0]);
    fill_words(words(&address).chain([port]).chain(MACS_AND_COUNTER))
}

/// As many of the words as there is room for, and zeros behind them.
fn fill_words<const WORDS: usize>(words: impl Iterator<Item = u32>) -> [u32; WORDS] {
    let mut filled = [0; WORDS];
    filled
        .iter_mut()
        .zip(words)
        .for_each(|(place, word)| *place = word);
    filled
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes
        .chunks_exact(4)
        .map(|word| u32::from_ne_bytes(std::array::from_fn(|index| word[index])))
}
