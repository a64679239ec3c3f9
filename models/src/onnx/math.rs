//! Functions that `numerics` has not: fixed polynomials, the same bits on every machine.
//!
//! Arithmetic on `f64` where `f32` would lose digits. Accuracy is against the exact value, in units of the last `f32` place.

/// `base` to the `power`, as IEEE 754 has its special cases; within 1 unit.
pub(super) fn pow(base: f32, power: f32) -> f32 {
    let whole = power == power.trunc();
    let odd = whole && power.abs() < 16_777_216.0 && (power as i64) % 2 != 0;
    match () {
        () if power == 0.0 || base == 1.0 => 1.0,
        () if base.is_nan() || power.is_nan() => f32::NAN,
        () if power == 1.0 => base,
        () if power == 2.0 => base * base,
        () if power == 0.5 && base >= 0.0 => base.sqrt(),
        () if base < 0.0 && !whole => f32::NAN,
        () => {
            let size = exp_wide(f64::from(power) * ln_wide(f64::from(base.abs()))) as f32;
            if base.is_sign_negative() && odd {
                -size
            } else {
                size
            }
        }
    }
}

/// The sine, within 1 unit for |x| below 1e6 (beyond, the reduction loses digits).
pub(super) fn sin(x: f32) -> f32 {
    circle(f64::from(x), 0)
}

/// The cosine, as [`sin`].
pub(super) fn cos(x: f32) -> f32 {
    circle(f64::from(x), 1)
}

/// sin(x + quarters * pi / 2).
fn circle(x: f64, quarters: i64) -> f32 {
    // Cody and Waite (1980): pi / 2 in two parts.
    const HIGH: f64 = 1.570_796_325_167_417_5;
    const LOW: f64 = 1.627_479_014_562_301_8e-9;
    if !x.is_finite() {
        return f32::NAN;
    }
    let n = (x * std::f64::consts::FRAC_2_PI).round_ties_even();
    let r = (x - n * HIGH) - n * LOW;
    let square = r * r;
    let quadrant = (n as i64).wrapping_add(quarters) & 3;
    let value = if quadrant & 1 == 0 {
        let divisors = [
            -6_227_020_800.0,
            39_916_800.0,
            -362_880.0,
            5040.0,
            -120.0,
            6.0,
        ];
        let tail = divisors.iter().fold(0.0, |p, d| p * square - 1.0 / d);
        r + r * square * tail
    } else {
        let divisors = [-479_001_600.0, 3_628_800.0, -40_320.0, 720.0, -24.0, 2.0];
        let tail = divisors.iter().fold(0.0, |p, d| p * square - 1.0 / d);
        1.0 + square * tail
    };
    (if quadrant >= 2 { -value } else { value }) as f32
}

/// e^x on `f64`, within 1e-13 relative; 0 and infinity where `f32` has nothing else.
#[inline(always)]
pub(super) fn exp_wide(x: f64) -> f64 {
    // The Taylor series to the 12th power: |r| is at most ln 2 / 2.
    const FACTORIALS: [f64; 12] = [
        39_916_800.0,
        3_628_800.0,
        362_880.0,
        40_320.0,
        5_040.0,
        720.0,
        120.0,
        24.0,
        6.0,
        2.0,
        1.0,
        1.0,
    ];
    let inside = x.clamp(-150.0, 150.0);
    // Adding 1.5 2^52 rounds to a whole number and leaves it in the lowest bits: no conversion that AVX2 has not.
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    let shifted = inside * std::f64::consts::LOG2_E + SHIFT;
    let r = inside - (shifted - SHIFT) * std::f64::consts::LN_2;
    let sum = FACTORIALS
        .iter()
        .fold(1.0 / 479_001_600.0, |sum, factorial| {
            sum * r + 1.0 / factorial
        });
    let power = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52));
    let value = sum * power;
    match () {
        () if x > 150.0 => f64::INFINITY,
        () if x < -150.0 => 0.0,
        () => value,
    }
}

/// The natural logarithm of a number that is an `f32`'s size, within 1e-13; negative infinity for 0.
pub(super) fn ln_wide(x: f64) -> f64 {
    if x == 0.0 {
        return f64::NEG_INFINITY;
    } else if !(x > 0.0 && x.is_finite()) {
        return if x > 0.0 { x } else { f64::NAN };
    }
    let bits = x.to_bits();
    let mut e = ((bits >> 52) as i64) - 1023;
    let mut m = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        e += 1;
    }
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let mut p = 0.0;
    for k in (0..10).rev() {
        p = p * square + 1.0 / f64::from(2 * k + 1);
    }
    e as f64 * std::f64::consts::LN_2 + 2.0 * s * p
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worst(low: f32, high: f32, ours: fn(f32) -> f32, exact: fn(f64) -> f64) -> f64 {
        let point = |i: u32| low + (high - low) * (i as f32 / 1e5);
        (0..=100_000)
            .map(point)
            .map(|x| {
                let right = exact(f64::from(x));
                (f64::from(ours(x)) - right).abs() / right.abs().max(1e-30)
            })
            .fold(0.0, f64::max)
    }

    #[test]
    fn the_functions_are_close_to_the_exact_ones() {
        assert!(worst(-80.0, 80.0, |x| exp_wide(f64::from(x)) as f32, f64::exp) < 1e-7);
        assert!(worst(0.1, 3.0, sin, f64::sin) < 2e-7);
        assert!(worst(100.0, 101.5, cos, f64::cos) < 1e-6);
        assert!(worst(0.001, 50.0, |x| pow(x, 2.7), |x| x.powf(f64::from(2.7_f32))) < 1e-7);
        assert!(worst(-30.0, 30.0, |x| pow(2.0, x), |x| 2_f64.powf(x)) < 1e-7);
    }

    #[test]
    fn a_power_has_its_special_cases() {
        assert_eq!(pow(-2.0, 3.0), -8.0);
        assert_eq!(pow(0.0, -1.0), f32::INFINITY);
        assert_eq!(pow(f32::NAN, 0.0), 1.0);
        assert!(pow(-2.0, 0.3).is_nan() && exp_wide(f64::NAN).is_nan());
    }
}
