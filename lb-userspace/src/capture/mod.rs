//! `pglb capture`: from what the kernel program tells of a packet to what a person, or another
//! program, reads of it. Nothing here touches the kernel; time comes with each packet.

pub mod filter;
pub mod headers;
pub mod line;
pub mod order;
pub mod packet;
pub mod pcapng;
