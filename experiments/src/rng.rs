//! Seeded random numbers, the same on every machine and in every release.
//!
//! A draw decides which version serves a device, and it is logged; a stream of numbers that changed with a crate's version would
//! make the log unexplainable. So the generator is ours: xoshiro256++ (Blackman and Vigna, 2021), seeded by SplitMix64 (Steele et al.,
//! 2014). Normal: Marsaglia's polar method (1964); gamma: Marsaglia and Tsang (2000); beta: two gammas. Not for secrets.

/// A generator of 2^256 - 1 states.
#[derive(Debug, Clone)]
pub struct Rng {
    state: [u64; 4],
    spare: Option<f64>,
}

impl Rng {
    /// The generator of `seed`.
    pub fn new(seed: u64) -> Self {
        let mut seed = seed;
        let state = std::array::from_fn(|_| split_mix(&mut seed));
        Self { state, spare: None }
    }

    /// The generator of the `index`-th part of a job: parts are independent and do not depend on who runs them.
    pub fn part(seed: u64, index: u64) -> Self {
        let mut mixed = seed;
        let first = split_mix(&mut mixed);
        let mut at = first ^ index.wrapping_mul(0xd605_bbb5_8c8a_bbd5);
        Self::new(split_mix(&mut at))
    }

    /// The next 64 bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Uniform in `[0, 1)`, 53 bits.
    #[inline]
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    /// True with probability `p`.
    #[inline]
    pub fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// Uniform in `0..n`, for `n > 0`; the bias is below n / 2^53.
    pub fn below(&mut self, n: usize) -> usize {
        ((self.uniform() * n as f64) as usize).min(n - 1)
    }

    /// Standard normal.
    pub fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        loop {
            let (u, v) = (2.0 * self.uniform() - 1.0, 2.0 * self.uniform() - 1.0);
            let s = u * u + v * v;
            if s > 0.0 && s < 1.0 {
                let scale = (-2.0 * s.ln() / s).sqrt();
                self.spare = Some(v * scale);
                return u * scale;
            }
        }
    }

    /// Gamma of this shape, scale 1.
    pub fn gamma(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            let u = self.uniform().max(f64::MIN_POSITIVE);
            return self.gamma(shape + 1.0) * u.powf(1.0 / shape);
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v <= 0.0 {
                continue;
            }
            let u = self.uniform().max(f64::MIN_POSITIVE);
            if u.ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return d * v;
            }
        }
    }

    /// Beta(a, b).
    pub fn beta(&mut self, a: f64, b: f64) -> f64 {
        let (x, y) = (self.gamma(a), self.gamma(b));
        if x + y > 0.0 { x / (x + y) } else { 0.5 }
    }

    /// An index with the probabilities `shares`, which sum to 1.
    pub fn choose(&mut self, shares: &[f64]) -> usize {
        pick(shares, self.uniform())
    }

    /// Brings `items` into a uniformly chosen order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last + 1);
            items.swap(last, other);
        }
    }
}

/// Where the point `u` of `[0, 1)` lies when `shares` are laid end to end.
pub(crate) fn pick(shares: &[f64], u: f64) -> usize {
    let mut sum = 0.0;
    for (index, share) in shares.iter().enumerate() {
        sum += share;
        if u < sum {
            return index;
        }
    }
    // Rounding: the last that has any share.
    shares.iter().rposition(|share| *share > 0.0).unwrap_or(0)
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(draws: impl Iterator<Item = f64>) -> (f64, f64) {
        let draws: Vec<f64> = draws.collect();
        let n = draws.len() as f64;
        let mean = draws.iter().sum::<f64>() / n;
        let var = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        (mean, var)
    }

    #[test]
    fn the_stream_of_a_seed_is_fixed() {
        // SplitMix64 of seed 0 as published; xoshiro256++ on top of it.
        let mut zero = 0;
        assert_eq!(split_mix(&mut zero), 0xe220_a839_7b1d_cdaf);
        let mut a = Rng::new(7);
        let mut b = Rng::new(7);
        assert!((0..100).all(|_| a.next_u64() == b.next_u64()));
        assert_ne!(Rng::part(7, 0).next_u64(), Rng::part(7, 1).next_u64());
    }

    #[test]
    fn draws_have_their_mean_and_variance() {
        let mut rng = Rng::new(1);
        let (mean, var) = moments((0..200_000).map(|_| rng.normal()));
        assert!(
            mean.abs() < 0.01 && (var - 1.0).abs() < 0.02,
            "{mean} {var}"
        );
        let (mean, var) = moments((0..200_000).map(|_| rng.gamma(0.5)));
        assert!(
            (mean - 0.5).abs() < 0.01 && (var - 0.5).abs() < 0.02,
            "{mean} {var}"
        );
        let (mean, var) = moments((0..200_000).map(|_| rng.beta(2.0, 6.0)));
        let expected = 2.0 * 6.0 / (64.0 * 9.0);
        assert!(
            (mean - 0.25).abs() < 0.003 && (var - expected).abs() < 0.001,
            "{mean} {var}"
        );
    }

    #[test]
    fn a_choice_never_falls_on_an_arm_without_share() {
        let mut rng = Rng::new(3);
        let shares = [0.5, 0.0, 0.5];
        assert!((0..10_000).all(|_| rng.choose(&shares) != 1));
        assert_eq!(pick(&[0.3, 0.7, 0.0], 1.0), 1);
    }
}
