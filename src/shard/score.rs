//! How much a shard wants a bucket: the scores of weighted rendezvous hashing.
//!
//! Each pair of a shard's name and a bucket has a number `u` of 64 bits that looks drawn at random and is the same
//! everywhere: the first eight bytes of SHA-256 over the name, a zero byte and the bucket in two bytes. Of shards with
//! weights the winner is the one with the least −log2(u) / weight; then each wins in proportion to its weight, and what
//! one of them does changes nothing between two others. The logarithm is in fixed point: a map comes out the same
//! on every machine.
//!
//! Thaler and Ravishankar, "Using name-based mappings to increase hit rates" (1998); the weights: Schindelhauer and
//! Schomaker, "Weighted distributed hash tables" (2005).

use ring::digest::{SHA256, digest};

use super::hash::Bucket;

/// The draw of a shard for a bucket: the higher, the more it wants it.
pub(super) fn draw(shard: &str, bucket: Bucket) -> u64 {
    let mut text = Vec::with_capacity(shard.len() + 3);
    text.extend_from_slice(shard.as_bytes());
    text.push(0);
    text.extend_from_slice(&bucket.number().to_be_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&digest(&SHA256, &text).as_ref()[..8]);
    u64::from_be_bytes(first)
}

/// −log2(`draw` / 2^64), times 2^32: between 0 and 2^38.
pub(super) fn distance(draw: u64) -> u64 {
    // 0 counts as 1: its logarithm would be without end.
    let draw = draw.max(1);
    let zeros = draw.leading_zeros();
    // Between 1 and 2, in units of 2^-63. Squared, its logarithm is doubled, and the bit before the point comes out.
    let mut mantissa = draw << zeros;
    let mut fraction = 0u64;
    for _ in 0..FRACTION_BITS {
        let square = u128::from(mantissa) * u128::from(mantissa);
        let carry = square >> 127 == 1;
        fraction = fraction << 1 | u64::from(carry);
        mantissa = u64::try_from(square >> if carry { 64 } else { 63 }).unwrap_or(u64::MAX);
    }
    let logarithm = u64::from(63 - zeros) << FRACTION_BITS | fraction;
    (64 << FRACTION_BITS) - logarithm
}

const FRACTION_BITS: u32 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_logarithms() {
        for draw in [1, 2, 3, 1000, u64::MAX / 3, 1 << 63, u64::MAX - 1, u64::MAX, 0x1234_5678_9abc_def0] {
            let exact = 64.0 - (draw as f64).log2();
            let found = distance(draw) as f64 / f64::from(FRACTION_BITS).exp2();
            assert!((exact - found).abs() < 1e-8, "{draw}: {exact} {found}");
        }
        assert_eq!(distance(0), distance(1));
        assert_eq!(distance(1), 64 << 32);
        assert_eq!(distance(1 << 63), 1 << 32);
    }

    /// Fixed for ever: a map that is made anew somewhere else is the same.
    #[test]
    fn draws() {
        let bucket = |number| Bucket::new(number).unwrap();
        assert_eq!(draw("a", bucket(0)), 0xa2d3_9892_2901_344d);
        assert_eq!(draw("shard-2", bucket(16_383)), 0xeb89_7455_b7d6_dbeb);
    }
}
