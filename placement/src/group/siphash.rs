//! SipHash-2-4: a keyed hash whose values are the same in every release, which std's hasher does
//! not promise. Source: Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012.

/// A hash being fed.
pub struct SipHash24 {
    v: [u64; 4],
    tail: u64,
    len: usize,
}

impl SipHash24 {
    pub fn new((k0, k1): (u64, u64)) -> Self {
        Self {
            v: [
                k0 ^ 0x736f_6d65_7073_6575,
                k1 ^ 0x646f_7261_6e64_6f6d,
                k0 ^ 0x6c79_6765_6e65_7261,
                k1 ^ 0x7465_6462_7974_6573,
            ],
            tail: 0,
            len: 0,
        }
    }

    pub fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.tail |= u64::from(*byte) << (8 * (self.len % 8));
            self.len += 1;
            if self.len.is_multiple_of(8) {
                self.compress(self.tail);
                self.tail = 0;
            }
        }
    }

    pub fn finish(mut self) -> u64 {
        self.compress(self.tail | ((self.len as u64) << 56));
        self.v[2] ^= 0xff;
        for _ in 0..4 {
            self.round();
        }
        self.v[0] ^ self.v[1] ^ self.v[2] ^ self.v[3]
    }

    fn compress(&mut self, word: u64) {
        self.v[3] ^= word;
        self.round();
        self.round();
        self.v[0] ^= word;
    }

    fn round(&mut self) {
        let [mut a, mut b, mut c, mut d] = self.v;
        a = a.wrapping_add(b);
        b = b.rotate_left(13) ^ a;
        a = a.rotate_left(32);
        c = c.wrapping_add(d);
        d = d.rotate_left(16) ^ c;
        a = a.wrapping_add(d);
        d = d.rotate_left(21) ^ a;
        c = c.wrapping_add(b);
        b = b.rotate_left(17) ^ c;
        c = c.rotate_left(32);
        self.v = [a, b, c, d];
    }
}

#[cfg(test)]
mod tests {
    use super::SipHash24;

    /// Vectors of the reference implementation (vectors.h): key 00 01 … 0f, input 00 01 ….
    #[test]
    fn hashes_are_those_of_the_reference() {
        let key = (0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
        let hash = |len: u8| {
            let mut hash = SipHash24::new(key);
            let input: Vec<u8> = (0..len).collect();
            let (head, tail) = input.split_at(input.len() / 3);
            hash.write(head);
            hash.write(tail);
            hash.finish()
        };
        assert_eq!(hash(0), 0x726f_db47_dd0e_0e31);
        assert_eq!(hash(1), 0x74f8_39c5_93dc_67fd);
        assert_eq!(hash(15), 0xa129_ca61_49be_45e5);
    }
}
