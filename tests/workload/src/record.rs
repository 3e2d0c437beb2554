//! One record: 64 bytes that can belong to no other number.

/// Bytes of one record. It divides every page and block size, so a record never spans two blocks.
pub const BYTES: usize = 64;

/// The record with this number: the number, a filling that depends on it, and a checksum over both.
pub fn encode(number: u64) -> [u8; BYTES] {
    let mut record = [0; BYTES];
    for (position, word) in record.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&number.rotate_left(position as u32).to_le_bytes());
    }
    let checksum = fnv1a(&record[..BYTES - 8]);
    record[BYTES - 8..].copy_from_slice(&checksum.to_le_bytes());
    record
}

/// The number of a valid record; `None` for anything that [`encode`] did not make.
pub fn decode(record: &[u8]) -> Option<u64> {
    let number = u64::from_le_bytes(record.get(..8)?.try_into().ok()?);
    (record == encode(number)).then_some(number)
}

/// FNV-1a, 64 bits (RFC 9923).
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_as_its_number() {
        for number in [0, 1, 2, 255, 1 << 40, u64::MAX] {
            assert_eq!(decode(&encode(number)), Some(number));
        }
    }

    #[test]
    fn any_changed_byte_makes_it_invalid() {
        let record = encode(77);
        for position in 0..BYTES {
            let mut damaged = record;
            damaged[position] ^= 1;
            assert_eq!(decode(&damaged), None, "byte {position}");
        }
        assert_eq!(decode(&[0; BYTES]), None, "a block of zeros is not a record");
        assert_eq!(decode(&record[..BYTES - 1]), None);
    }
}
