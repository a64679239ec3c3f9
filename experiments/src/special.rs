//! The few functions of probability that the statistics need: normal, chi-square, Kolmogorov, gamma and beta.
//!
//! Owns no state. Promises a relative error below 1e-12 in the range the crate uses (compared with scipy in `tests/agreement.rs`).
//! Sources: Lanczos (1964) with the coefficients of Godfrey (g = 607/128, n = 15) for the gamma function; Press et al., *Numerical
//! Recipes*, 3rd ed., 6.2 for the incomplete gamma function (series and Lentz's continued fraction); Wichura (1988), algorithm AS 241,
//! for the normal quantile; Kolmogorov (1933) and its theta-function form for the limit of the KS statistic.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

const LANCZOS_G: f64 = 607.0 / 128.0;
const LANCZOS: [f64; 15] = [
    0.999_999_999_999_997_1,
    57.156_235_665_862_92,
    -59.597_960_355_475_49,
    14.136_097_974_741_746,
    -0.491_913_816_097_620_2,
    3.399_464_998_481_189e-5,
    4.652_362_892_704_858e-5,
    -9.837_447_530_487_956e-5,
    1.580_887_032_249_125e-4,
    -2.102_644_417_241_049e-4,
    2.174_396_181_152_126_5e-4,
    -1.643_181_065_367_639e-4,
    8.441_822_398_385_275e-5,
    -2.619_083_840_158_140_7e-5,
    3.689_918_265_953_162_5e-6,
];

/// Natural logarithm of the gamma function, for `x > 0`.
pub fn ln_gamma(x: f64) -> f64 {
    let (first, rest) = (LANCZOS[0], &LANCZOS[1..]);
    let sum = rest
        .iter()
        .zip(1_u32..)
        .fold(first, |sum, (c, i)| sum + c / (x + f64::from(i)));
    let t = x + LANCZOS_G + 0.5;
    (x + 0.5) * t.ln() - t + ((2.0 * PI).sqrt() * sum / x).ln()
}

/// Natural logarithm of the beta function.
pub fn ln_beta(a: f64, b: f64) -> f64 {
    ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b)
}

/// Regularised upper incomplete gamma function `Q(a, x)`, for `a > 0`, `x >= 0`.
pub fn gamma_q(a: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 1.0;
    }
    let front = (a * x.ln() - x - ln_gamma(a)).exp();
    if x < a + 1.0 {
        1.0 - front * gamma_series(a, x)
    } else {
        front * gamma_fraction(a, x)
    }
}

/// Sum of x^k / (a (a+1) .. (a+k)); converges fast below `a + 1`.
fn gamma_series(a: f64, x: f64) -> f64 {
    let mut term = 1.0 / a;
    let mut sum = term;
    let mut k = a;
    for _ in 0..10_000 {
        k += 1.0;
        term *= x / k;
        sum += term;
        if term < sum * 1e-17 {
            break;
        }
    }
    sum
}

/// Lentz's continued fraction; converges fast above `a + 1`.
fn gamma_fraction(a: f64, x: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let mut b = x + 1.0 - a;
    let mut c = 1.0 / TINY;
    let mut d = 1.0 / b;
    let mut h = d;
    for i in 1..10_000_u32 {
        let i = f64::from(i);
        let an = -i * (i - a);
        b += 2.0;
        d = not_zero(an * d + b);
        c = not_zero(b + an / c);
        d = 1.0 / d;
        let step = d * c;
        h *= step;
        if (step - 1.0).abs() < 1e-16 {
            break;
        }
    }
    h
}

fn not_zero(x: f64) -> f64 {
    if x.abs() < 1e-300 { 1e-300 } else { x }
}

/// Complementary error function.
pub fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        2.0 - gamma_q(0.5, x * x)
    } else {
        gamma_q(0.5, x * x)
    }
}

/// `P(Z > z)` of a standard normal.
pub fn normal_upper(z: f64) -> f64 {
    0.5 * erfc(z * FRAC_1_SQRT_2)
}

/// `P(X > x)` of a chi-square with `df` degrees of freedom.
pub fn chi2_upper(x: f64, df: f64) -> f64 {
    gamma_q(df / 2.0, x.max(0.0) / 2.0)
}

/// The value that a chi-square with `df` degrees of freedom exceeds with probability `upper`.
///
/// By bisection on [`chi2_upper`]: 200 halvings at most, about 20 us.
pub fn chi2_limit(upper: f64, df: f64) -> f64 {
    let mut high = df.max(1.0);
    while chi2_upper(high, df) > upper && high < 1e12 {
        high *= 2.0;
    }
    bisect(0.0, high, |x| chi2_upper(x, df) < upper)
}

/// The least `x` in `low..=high` for which `above` holds, which must hold from there on.
pub(crate) fn bisect(mut low: f64, mut high: f64, above: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            break;
        }
        if above(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    0.5 * (low + high)
}

/// `P(K > x)` of Kolmogorov's limit distribution: 2 sum (-1)^(k-1) exp(-2 k^2 x^2), or its theta-function form for small `x`.
pub fn kolmogorov_upper(x: f64) -> f64 {
    if x <= 0.0 {
        return 1.0;
    }
    if x < 1.0 {
        let sum: f64 = (1..=20_u32)
            .map(|k| {
                let odd = f64::from(2 * k - 1);
                (-(odd * PI).powi(2) / (8.0 * x * x)).exp()
            })
            .sum();
        return (1.0 - (2.0 * PI).sqrt() / x * sum).clamp(0.0, 1.0);
    }
    let sum: f64 = (1..=20_u32)
        .map(|k| {
            let sign = if k % 2 == 1 { 1.0 } else { -1.0 };
            sign * (-2.0 * f64::from(k * k) * x * x).exp()
        })
        .sum();
    (2.0 * sum).clamp(0.0, 1.0)
}

/// The value that a standard normal stays below with probability `p`, for `0 < p < 1` (AS 241, PPND16).
pub fn normal_quantile(p: f64) -> f64 {
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        let r = 0.180_625 - q * q;
        return q * ratio(&CENTRE, r);
    }
    let tail = if q < 0.0 { p } else { 1.0 - p };
    let r = (-tail.ln()).sqrt();
    let z = if r <= 5.0 {
        ratio(&MIDDLE, r - 1.6)
    } else {
        ratio(&TAIL, r - 5.0)
    };
    if q < 0.0 { -z } else { z }
}

/// Two polynomials of degree 7, numerator and denominator, lowest power first.
type Rational = [[f64; 8]; 2];

fn ratio([top, bottom]: &Rational, x: f64) -> f64 {
    let at = |c: &[f64; 8]| c.iter().rev().fold(0.0, |sum, c| sum * x + c);
    at(top) / at(bottom)
}

const CENTRE: Rational = [
    [
        3.387_132_872_796_366_5,
        1.331_416_678_917_843_8e2,
        1.971_590_950_306_551_3e3,
        1.373_169_376_550_946e4,
        4.592_195_393_154_987e4,
        6.726_577_092_700_87e4,
        3.343_057_558_358_813e4,
        2.509_080_928_730_122_7e3,
    ],
    [
        1.0,
        4.231_333_070_160_091e1,
        6.871_870_074_920_579e2,
        5.394_196_021_424_751e3,
        2.121_379_430_158_66e4,
        3.930_789_580_009_271e4,
        2.872_908_573_572_194_3e4,
        5.226_495_278_852_545e3,
    ],
];
const MIDDLE: Rational = [
    [
        1.423_437_110_749_683_5,
        4.630_337_846_156_546,
        5.769_497_221_460_691,
        3.647_848_324_763_204_5,
        1.270_458_252_452_368_4,
        2.417_807_251_774_506e-1,
        2.272_384_498_926_918_4e-2,
        7.745_450_142_783_414e-4,
    ],
    [
        1.0,
        2.053_191_626_637_759,
        1.676_384_830_183_803_8,
        6.897_673_349_851e-1,
        1.481_039_764_274_800_8e-1,
        1.519_866_656_361_645_7e-2,
        5.475_938_084_995_345e-4,
        1.050_750_071_644_416_9e-9,
    ],
];
const TAIL: Rational = [
    [
        6.657_904_643_501_103,
        5.463_784_911_164_114,
        1.784_826_539_917_291_3,
        2.965_605_718_285_048_7e-1,
        2.653_218_952_657_612_4e-2,
        1.242_660_947_388_078_4e-3,
        2.711_555_568_743_487_6e-5,
        2.010_334_399_292_288_1e-7,
    ],
    [
        1.0,
        5.998_322_065_558_88e-1,
        1.369_298_809_227_358e-1,
        1.487_536_129_085_061_5e-2,
        7.868_691_311_456_133e-4,
        1.846_318_317_510_054_8e-5,
        1.421_511_758_316_446e-7,
        2.044_263_103_389_939_8e-15,
    ],
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quantile_undoes_the_normal() {
        for z in [-7.0, -3.0, -1.0, -0.1, 0.0, 0.4, 1.96, 5.0] {
            let below = normal_upper(-z);
            assert!((normal_quantile(below) - z).abs() < 1e-9, "{z}");
        }
    }

    #[test]
    fn the_gamma_function_knows_its_factorials() {
        assert!((ln_gamma(1.0)).abs() < 1e-14);
        assert!((ln_gamma(11.0) - 3_628_800_f64.ln()).abs() < 1e-12);
        assert!((ln_gamma(0.5) - PI.sqrt().ln()).abs() < 1e-13);
    }

    #[test]
    fn both_forms_of_kolmogorov_meet() {
        assert!((kolmogorov_upper(1.0 - 1e-12) - kolmogorov_upper(1.0)).abs() < 1e-10);
    }

    #[test]
    fn the_limit_of_a_chi_square_is_exceeded_as_often_as_asked() {
        let limit = chi2_limit(0.05, 9.0);
        assert!((limit - 16.918_977_604_620_45).abs() < 1e-9, "{limit}");
    }
}
