//! E2M1 elements in words of 32 bits, in the order that a GPU unpacks them at least cost.

/// E2M1 elements of a word.
pub const E2M1_PER_WORD: u32 = 8;

/// Where each bit of a word comes from, of the word that holds the elements as checkpoints do: element i in the bits from 4 · i on, its sign
/// the highest of them.
///
/// Magnitudes stay, so that half of a word selects four bytes of a table by `prmt`. Signs go to where those bytes have theirs: of the first four
/// elements to the highest bits of the word's bytes, of the others four bits below.
pub const E2M1_WORD: [u8; 32] = {
    let mut bits = [0; 32];
    let mut element = 0;
    while element < E2M1_PER_WORD as u8 {
        let mut bit = 0;
        while bit < 3 {
            bits[(4 * element + bit) as usize] = 4 * element + bit;
            bit += 1;
        }
        bits[sign_bit(element)] = 4 * element + 3;
        element += 1;
    }
    bits
};

/// The bit of a word that is an element's sign.
const fn sign_bit(element: u8) -> usize {
    (if element < 4 { 8 * element + 7 } else { 8 * (element - 4) + 3 }) as usize
}

/// The E2M1 elements of a word, the first in memory first.
pub fn e2m1_of_word(word: u32) -> [u8; E2M1_PER_WORD as usize] {
    std::array::from_fn(|element| {
        let sign = word >> sign_bit(element as u8) & 1;
        (word >> (4 * element) & 7 | sign << 3) as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_of_a_word_has_its_place() {
        let stored: [u8; 8] = [0x0, 0xf, 0x8, 0x7, 0x3, 0xc, 0x5, 0xa];
        let checkpoint = (0..8).fold(0u32, |word, element| word | u32::from(stored[element]) << (4 * element));
        let word = (0..32).fold(0u32, |word, bit| word | (checkpoint >> E2M1_WORD[bit] & 1) << bit);
        assert_eq!(e2m1_of_word(word), stored);
        let mut sources = E2M1_WORD;
        sources.sort_unstable();
        assert!(sources.into_iter().eq(0..32));
    }
}
