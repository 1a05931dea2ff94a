//! Random numbers for the cases: repeatable from a seed.

/// SplitMix64. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators".
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `bound`, which is not zero.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.draw() % bound as u64).unwrap()
    }

    pub fn choose<'c, T>(&mut self, choices: &'c [T]) -> &'c T {
        &choices[self.below(choices.len())]
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// The seeds that a case runs with: `count` fixed ones, or the one in `PORTICO_TEST_SEED`. Each is
/// printed before it is used, so a failing test shows it.
pub fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let given = std::env::var("PORTICO_TEST_SEED").ok();
    let given: Option<u64> = given.map(|seed| seed.parse().expect("PORTICO_TEST_SEED is a number"));
    let (first, end) = given.map_or((0, count), |seed| (seed, seed + 1));
    (first..end).inspect(|seed| println!("PORTICO_TEST_SEED={seed}"))
}
