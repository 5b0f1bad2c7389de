//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624, equation 3).
//!
//! Sums are taken over 16-bit words exactly as they lie in memory. One's complement addition does
//! not care about byte order as long as every word is read the same way (RFC 1071, section 2), so
//! nothing here swaps bytes, on any machine.
//!
//! Zero has two forms in one's complement. A sum over anything that is not all zero never folds
//! to `0x0000`, so the checksum, its complement, is never `0xffff`; equation 3 keeps it so, where
//! the older equation 2 does not.

/// The sum of `bytes` as 16-bit words, not yet folded. `N` is even.
#[inline(always)]
pub fn sum<const N: usize>(bytes: &[u8; N]) -> u32 {
    let mut total = 0;
    let mut at = 0;
    while at + 1 < N {
        total += u32::from(u16::from_ne_bytes([bytes[at], bytes[at + 1]]));
        at += 2;
    }
    total
}

/// Folds the carries of `total` back into 16 bits.
#[inline(always)]
pub fn fold(total: u32) -> u16 {
    let once = (total & 0xffff) + (total >> 16);
    // At most one carry is left after the first fold, so the second cannot overflow.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the second fold leaves 16 bits"
    )]
    let folded = ((once & 0xffff) + (once >> 16)) as u16;
    folded
}

/// The checksum of data whose sum is `total`.
#[inline(always)]
pub fn finish(total: u32) -> [u8; 2] {
    (!fold(total)).to_ne_bytes()
}

/// What words that sum to `new` add to a sum where they replace words that sum to `old`.
#[inline(always)]
pub fn difference(old: u32, new: u32) -> u16 {
    fold(u32::from(!fold(old)) + u32::from(fold(new)))
}

/// The same for two words, not yet folded.
#[inline(always)]
pub fn change(old: [[u8; 2]; 2], new: [[u8; 2]; 2]) -> u32 {
    let word = |bytes| u16::from_ne_bytes(bytes);
    let without = old.map(|bytes| u32::from(!word(bytes)));
    let with = new.map(|bytes| u32::from(word(bytes)));
    without[0] + without[1] + with[0] + with[1]
}

/// The checksum of data to whose sum some differences are added, which together are less than 2^31.
#[inline(always)]
pub fn add(checksum: [u8; 2], differences: u32) -> [u8; 2] {
    finish(u32::from(!u16::from_ne_bytes(checksum)) + differences)
}

/// The checksum after words that summed to `old` have been replaced by words that sum to `new`.
#[inline(always)]
pub fn replace(checksum: [u8; 2], old: u32, new: u32) -> [u8; 2] {
    add(checksum, u32::from(difference(old, new)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn replacing_equals_computing_anew(mut data in any::<[u8; 40]>(), new in any::<[u8; 6]>(), at in 0usize..17) {
            // A packet of nothing but zeros has no checksum worth the name.
            data[39] |= 1;
            let before = finish(sum(&data));
            let old: [u8; 6] = core::array::from_fn(|i| data[at * 2 + i]);
            data[at * 2..at * 2 + 6].copy_from_slice(&new);
            prop_assert_eq!(replace(before, sum(&old), sum(&new)), finish(sum(&data)));
        }
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(finish(sum(&data)), (!0xddf2_u16).to_be_bytes());
    }
}
