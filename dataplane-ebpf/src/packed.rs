//! Numbers that hold several things: functions of a program that the verifier looks at by themselves take
//! at most five numbers.

use dataplane_common::frame::Mac;

/// A MAC and a number of 16 bits.
#[inline(always)]
pub(crate) fn pack_mac([a, b, c, d, e, f]: Mac, number: u16) -> u64 {
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0]) | u64::from(number) << 48
}

/// Undoes [`pack_mac`].
#[inline(always)]
pub(crate) fn unpack_mac(packed: u64) -> (Mac, u16) {
    let [a, b, c, d, e, f, low, high] = packed.to_le_bytes();
    ([a, b, c, d, e, f], u16::from_le_bytes([low, high]))
}
