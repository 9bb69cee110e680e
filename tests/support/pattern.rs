//! The bytes that `hostile pattern` writes.

use std::ops::Range;

/// Of how many numbers of eight bytes it is made.
const PERIOD: u64 = (128 << 10) + 1;

/// The bytes of the pattern at these offsets.
pub fn pattern(range: Range<usize>) -> Vec<u8> {
    let begin = range.start / 8;
    let mut bytes = vec![0; (range.end.div_ceil(8) - begin) * 8];
    for (index, number) in bytes.chunks_exact_mut(8).enumerate() {
        number.copy_from_slice(&((begin + index) as u64 % PERIOD).to_le_bytes());
    }
    bytes.truncate(range.end - begin * 8);
    bytes.drain(..range.start % 8);
    bytes
}

/// Compares without printing megabytes.
///
/// # Panics
/// With the first difference.
pub fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    if found == expected {
        return;
    }
    if let Some(at) = found.iter().zip(expected).position(|(left, right)| left != right) {
        panic!("{what}: differs from byte {at} on");
    }
    assert_eq!(found.len(), expected.len(), "{what}: length");
}
