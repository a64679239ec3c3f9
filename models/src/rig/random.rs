//! The rig's own randomness: SplitMix64 seeding xoshiro256++ and noise made of it.
//!
//! Sources: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014); Blackman and
//! Vigna, "Scrambled linear pseudorandom number generators" (ACM TOMS 2021). Only integer operations, additions and
//! multiplications are used, so one seed gives the same bits on every machine. Not for secrets.

/// A seeded generator, xoshiro256++ with a period of 2^256 - 1.
#[derive(Debug, Clone)]
pub struct Random {
    words: [u64; 4],
}

impl Random {
    /// The generator of `seed`; close seeds give unrelated sequences.
    pub fn new(seed: u64) -> Self {
        let mut counter = seed;
        Self {
            words: std::array::from_fn(|_| split_mix(&mut counter)),
        }
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let w = &mut self.words;
        let out = w[0].wrapping_add(w[3]).rotate_left(23).wrapping_add(w[0]);
        let shifted = w[1] << 17;
        w[2] ^= w[0];
        w[3] ^= w[1];
        w[1] ^= w[2];
        w[0] ^= w[3];
        w[2] ^= shifted;
        w[3] = w[3].rotate_left(45);
        out
    }

    /// Uniform in `[low, high)`.
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        let unit = (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64);
        low + (high - low) * unit
    }

    /// True with the given probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.uniform(0.0, 1.0) < probability
    }

    /// One of `0..count`; the bias of the multiplication is below 2^-32 for small counts.
    pub fn below(&mut self, count: u32) -> u32 {
        (((self.bits() >> 32) * u64::from(count)) >> 32) as u32
    }

    /// Bell-shaped noise of mean 0 and variance 1: six uniforms summed (Irwin-Hall), so it never exceeds 4.25 sigmas
    /// and needs no logarithm.
    pub fn noise(&mut self) -> f64 {
        let mut sum = 0.0;
        for _ in 0..6 {
            sum += self.uniform(-1.0, 1.0);
        }
        sum * std::f64::consts::FRAC_1_SQRT_2
    }
}

fn split_mix(counter: &mut u64) -> u64 {
    *counter = counter.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *counter;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Noise with a memory: a first-order recurrence of standard deviation 1 which forgets over `memory_s` steps.
#[derive(Debug, Clone)]
pub struct Wander {
    keep: f64,
    drive: f64,
    /// The present value, in sigmas.
    pub value: f64,
}

impl Wander {
    /// A wander already in its stationary spread.
    pub fn new(random: &mut Random, memory_s: f64) -> Self {
        let keep = 1.0 - 1.0 / memory_s;
        Self {
            keep,
            drive: (1.0 - keep * keep).sqrt(),
            value: random.noise(),
        }
    }

    /// One second later.
    pub fn step(&mut self, random: &mut Random) -> f64 {
        self.value = self.keep * self.value + self.drive * random.noise();
        self.value
    }
}

/// A sine of one turn per `period_s` seconds made by rotating a unit vector; the angle comes from the half-angle
/// tangent (2 atan t ~ 2t for these slow waves), so no trigonometric function of a platform enters.
#[derive(Debug, Clone)]
pub struct Wave {
    turn: (f64, f64),
    at: (f64, f64),
}

impl Wave {
    /// A wave with a random phase.
    pub fn new(random: &mut Random, period_s: f64) -> Self {
        let t = std::f64::consts::PI / period_s;
        let turn = ((1.0 - t * t) / (1.0 + t * t), 2.0 * t / (1.0 + t * t));
        let mut wave = Self {
            turn,
            at: (1.0, 0.0),
        };
        for _ in 0..random.below(period_s as u32 + 1) {
            wave.step();
        }
        wave
    }

    /// One second later; the vector is pulled back to length 1, so it never fades.
    pub fn step(&mut self) -> f64 {
        let (c, s) = self.turn;
        let (x, y) = self.at;
        let (x, y) = (x * c - y * s, x * s + y * c);
        let pull = 1.5 - 0.5 * (x * x + y * y);
        self.at = (x * pull, y * pull);
        self.at.1
    }
}
