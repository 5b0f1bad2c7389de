//! The Internet checksum (RFC 1071) of the packets that the controller sends itself.

/// The sum of big-endian 16-bit words; of an odd number of bytes the last one is left out.
pub(super) fn sum_words(bytes: &[u8]) -> u32 {
    let (words, _) = bytes.as_chunks::<2>();
    words
        .iter()
        .map(|&word| u32::from(u16::from_be_bytes(word)))
        .sum()
}

/// The checksum of a sum of words, as it stands in a packet.
pub(super) fn checksum(sum: u32) -> [u8; 2] {
    let folded = (sum & 0xffff) + (sum >> 16);
    let [_, _, high, low] = (!(folded + (folded >> 16))).to_be_bytes();
    [high, low]
}
