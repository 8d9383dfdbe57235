//! Chance that repeats itself: the same seed draws the same keys and the same arrival times on every machine.

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and good enough to draw keys and gaps.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Luck of its own for every seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u32) -> u32 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u32
    }

    /// A number from 0 to 1, 1 excluded.
    pub(crate) fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The gap before the next event of a Poisson process with this many events a second, in seconds.
    pub(crate) fn gap_s(&mut self, per_second: f64) -> f64 {
        -(1.0 - self.fraction()).ln() / per_second
    }
}

/// Which of N things is asked for.
#[derive(Clone, Debug)]
pub(crate) enum Popularity {
    /// Each as often as any other.
    Uniform(u32),
    /// The k-th as often as 1 / k^s. Holds the sum of the shares up to each.
    Zipf(Vec<f64>),
}

impl Popularity {
    /// Zipf's law with exponent `s` over `n` things.
    pub(crate) fn zipf(n: u32, s: f64) -> Self {
        let mut sum = 0.0;
        let sums = (1..=n.max(1)).map(|k| {
            sum += f64::from(k).powf(-s);
            sum
        });
        Self::Zipf(sums.collect())
    }

    /// One of them, from 0.
    pub(crate) fn draw(&self, random: &mut Random) -> u32 {
        match self {
            Self::Uniform(n) => random.below(*n),
            Self::Zipf(sums) => {
                let at = random.fraction() * sums.last().copied().unwrap_or(0.0);
                sums.partition_point(|sum| *sum <= at) as u32
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_asks_for_the_first_as_often_as_the_law_says() {
        let (popularity, mut random) = (Popularity::zipf(1_000, 1.0), Random::new(7));
        let mut counts = vec![0u32; 1_000];
        for _ in 0..200_000 {
            counts[popularity.draw(&mut random) as usize] += 1;
        }
        // The sum of 1/k up to 1,000 is 7.485.
        let share = |k: usize| f64::from(counts[k - 1]) / 200_000.0 * 7.485 * k as f64;
        assert!((0.97..1.03).contains(&share(1)) && (0.9..1.1).contains(&share(10)), "{} {}", share(1), share(10));
    }

    #[test]
    fn gaps_of_a_poisson_process_have_its_mean_and_its_spread() {
        let mut random = Random::new(3);
        let gaps: Vec<f64> = (0..100_000).map(|_| random.gap_s(50.0)).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation = (gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!((0.0196..0.0204).contains(&mean) && (0.0192..0.0208).contains(&deviation), "{mean} {deviation}");
    }
}
