//! The only arithmetic a step may use: one order of operations, one implementation of each function.
//!
//! IEEE 754 fixes the bits of `+ - * /`, `sqrt` and the fused `mul_add`; nothing fixes those of a library's `exp`, nor the order
//! of a vectorised sum. So sums here run along the inputs one by one, or in four chains of every fourth input that are joined in one
//! order, and are vectorised across outputs only, and [`exp`], [`tanh`] and [`ln`] are ours. The slice kernels are compiled for each
//! vector width from the same inlined code (`dispatch`); the bits are the same. Changing any of it raises [`crate::NUMERICS_REV`].

pub(crate) use crate::dispatch::dispatch;

/// The layer `output[o] = bias[o] + sum over i of weights[i * outputs + o] * input[i]`, summed in the order of `i`.
///
/// `weights` holds one row of outputs an input (a candle `Linear` transposed). Wrong lengths panic.
pub fn dense(weights: &[f32], bias: &[f32], input: &[f32], output: &mut [f32]) {
    assert_eq!(bias.len(), output.len(), "dense: one bias an output");
    assert_eq!(
        weights.len(),
        input.len() * output.len(),
        "dense: weights are inputs x outputs"
    );
    dispatch(
        #[inline(always)]
        || dense_body(weights, bias, input, output),
    );
}

/// [`dense`] as the portable build runs it; public so that tests can compare the bits.
pub fn dense_portable(weights: &[f32], bias: &[f32], input: &[f32], output: &mut [f32]) {
    dense_body(weights, bias, input, output);
}

/// [`tanh`] of every value, in place.
pub fn tanh_all(values: &mut [f32]) {
    dispatch(
        #[inline(always)]
        || values.iter_mut().for_each(|value| *value = tanh(*value)),
    );
}

/// e to the `x`, within 2 units in the last place; 0 below -87.3 (no subnormals), infinity above 88.7, NaN for NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LOWEST: f32 = -87.3;
    const HIGHEST: f32 = 88.7;
    let (p, n) = exp_parts(x.clamp(LOWEST, HIGHEST));
    // 2^n in two factors: 2^128 alone is no f32.
    let half = n >> 1;
    let value = p * power_of_two(half) * power_of_two(n - half);
    match () {
        () if x < LOWEST => 0.0,
        () if x > HIGHEST => f32::INFINITY,
        () => value,
    }
}

/// `e^x = p 2^n` for sizes of `x` below a few hundred.
#[inline(always)]
fn exp_parts(x: f32) -> (f32, i32) {
    // Cody and Waite (1980): x = n ln 2 + r with ln 2 in two parts, so that r is exact to the last bit.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Up here floats are whole numbers: the sum rounds to the nearest, ties to even, and its low bits are the number.
    const WHOLE: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + WHOLE;
    let n = shifted - WHOLE;
    let r = (-n).mul_add(LN2_LOW, (-n).mul_add(LN2_HIGH, x));
    let mut p = 1.0 / 5040.0;
    for coefficient in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        p = r.mul_add(p, coefficient);
    }
    let bits = shifted.to_bits().wrapping_sub(WHOLE.to_bits());
    (p, bits.cast_signed())
}

/// The hyperbolic tangent, within 3 units in the last place.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let size = x.abs();
    // Small: the odd Taylor series, for 1 - 2 / (e^2x + 1) would cancel here.
    let square = x * x;
    let mut p = -929_569.0 / 638_512_875.0;
    for coefficient in [
        21_844.0 / 6_081_075.0,
        -1382.0 / 155_925.0,
        62.0 / 2835.0,
        -17.0 / 315.0,
        2.0 / 15.0,
        -1.0 / 3.0,
    ] {
        p = square.mul_add(p, coefficient);
    }
    let small = (x * square).mul_add(p, x);
    // Above 9.1 the nearest f32 is 1.
    let (p, n) = exp_parts(2.0 * size.min(10.0));
    let large = (1.0 - 2.0 / (p * power_of_two(n) + 1.0)).copysign(x);
    match () {
        () if size < 0.5 => small,
        () if x.is_nan() => x,
        () => large,
    }
}

/// The natural logarithm of a positive normal number, within 3 units in the last place or 1e-7 (near 1); negative infinity for 0
/// and subnormals, NaN below, infinity for infinity.
#[inline(always)]
pub fn ln(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    if x.is_nan() || x < 0.0 {
        return f32::NAN;
    } else if x < f32::MIN_POSITIVE {
        return f32::NEG_INFINITY;
    } else if x == f32::INFINITY {
        return x;
    }
    // x = 2^e m with m in sqrt(1/2)..sqrt(2): adding the offset carries into the exponent above sqrt(2).
    let shifted = x.to_bits().wrapping_add(0x3f80_0000 - 0x3f35_04f3);
    let e = (shifted >> 23) as i32 - 127;
    let m = f32::from_bits((shifted & 0x007f_ffff) + 0x3f35_04f3);
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let mut p = 2.0 / 9.0;
    for coefficient in [2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0] {
        p = square.mul_add(p, coefficient);
    }
    let log_m = (s * square).mul_add(p, 2.0 * s);
    (e as f32).mul_add(LN2_HIGH, (e as f32).mul_add(LN2_LOW, log_m))
}

/// The logistic function `1 / (1 + e^-x)`, within 4 units in the last place.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `e^x - 1` for `x` up to 0, within 8 units in the last place.
#[inline(always)]
pub fn exp_m1(x: f32) -> f32 {
    // 1 - e^x would cancel near 0; the tangent does not.
    let half = tanh(0.5 * x);
    2.0 * half / (1.0 - half)
}

/// `ln(1 + x)` for `x` from 0, within 4 units in the last place.
#[inline(always)]
pub fn ln_1p(x: f32) -> f32 {
    // Kahan: what rounding takes from 1 + x is given back by the quotient.
    let sum = 1.0 + x;
    if sum == 1.0 {
        x
    } else if sum == f32::INFINITY {
        sum
    } else {
        ln(sum) * (x / (sum - 1.0))
    }
}

/// The complementary error function of `z` from 0, within 1e-6 of its value.
#[inline(always)]
fn erfc_positive(z: f32) -> f32 {
    // From 1 on: Press et al., Numerical Recipes (1992), 6.2, a Chebyshev fit with 1.2e-7 relative error.
    let t = 1.0 / 0.5_f32.mul_add(z, 1.0);
    let mut p = 0.170_872_77;
    for coefficient in [
        -0.822_152_23,
        1.488_515_9,
        -1.135_204,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_7,
        -1.265_512_2,
    ] {
        p = t.mul_add(p, coefficient);
    }
    let tail = t * exp((-z).mul_add(z, p));
    if z < 1.0 { 1.0 - erf_small(z) } else { tail }
}

/// The error function for sizes up to 1, by its Taylor series.
#[inline(always)]
fn erf_small(x: f32) -> f32 {
    let square = x * x;
    let mut p = -1.0 / (39_916_800.0 * 23.0);
    for coefficient in [
        1.0 / (3_628_800.0 * 21.0),
        -1.0 / (362_880.0 * 19.0),
        1.0 / (40_320.0 * 17.0),
        -1.0 / (5_040.0 * 15.0),
        1.0 / (720.0 * 13.0),
        -1.0 / (120.0 * 11.0),
        1.0 / (24.0 * 9.0),
        -1.0 / (6.0 * 7.0),
        1.0 / (2.0 * 5.0),
        -1.0 / 3.0,
        1.0,
    ] {
        p = square.mul_add(p, coefficient);
    }
    std::f32::consts::FRAC_2_SQRT_PI * x * p
}

/// The error function, within 4 units in the last place.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let size = x.abs();
    let large = (1.0 - erfc_positive(size.min(6.0))).copysign(x);
    match () {
        () if x.is_nan() => x,
        () if size < 1.0 => erf_small(x),
        () => large,
    }
}

/// The Gaussian error linear unit `x Phi(x)` (Hendrycks and Gimpel, 2016), exact form, within 2e-6 of its value down to -5.
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    // Below 0 the sum 1 + erf cancels; the complement does not. Below -13 it is 0.
    let tail = erfc_positive((x.abs() * std::f32::consts::FRAC_1_SQRT_2).min(9.3));
    let phi = if x < 0.0 {
        0.5 * tail
    } else {
        0.5f32.mul_add(-tail, 1.0)
    };
    x * phi
}

/// `ln(1 + e^x)`, within 8 units in the last place; `x` itself above 20, where they are the same to the last bit but one.
#[inline(always)]
pub fn softplus(x: f32) -> f32 {
    let inside = ln_1p(exp(x.min(20.0)));
    if x > 20.0 || x.is_nan() { x } else { inside }
}

/// 2 to the `n`, for `n` in -126..=127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// Outputs kept in registers at once: four AVX2 vectors hide the latency of the fused multiply-add.
const LANES: usize = 32;

/// The body of [`dense`], for kernels that run inside a [`dispatch`] of their own.
#[inline(always)]
pub(crate) fn dense_body(weights: &[f32], bias: &[f32], input: &[f32], output: &mut [f32]) {
    output.copy_from_slice(bias);
    accumulate_body(weights, input, output);
}

/// `output[o] += sum over i of weights[i * outputs + o] * input[i]`, summed onto what is there in the order of `i`.
#[inline(always)]
pub(crate) fn accumulate_body(weights: &[f32], input: &[f32], output: &mut [f32]) {
    let outputs = output.len();
    let whole = outputs - outputs % LANES;
    for start in (0..whole).step_by(LANES) {
        accumulate_lanes::<LANES>(weights, input, output, start);
    }
    let eights = outputs - outputs % 8;
    for start in (whole..eights).step_by(8) {
        accumulate_lanes::<8>(weights, input, output, start);
    }
    for start in eights..outputs {
        accumulate_lanes::<1>(weights, input, output, start);
    }
}

#[inline(always)]
fn accumulate_lanes<const N: usize>(
    weights: &[f32],
    input: &[f32],
    output: &mut [f32],
    start: usize,
) {
    let mut sums = [0.0_f32; N];
    sums.copy_from_slice(&output[start..start + N]);
    for (row, x) in weights.chunks_exact(output.len()).zip(input) {
        for (sum, weight) in sums.iter_mut().zip(&row[start..start + N]) {
            *sum = weight.mul_add(*x, *sum);
        }
    }
    output[start..start + N].copy_from_slice(&sums);
}

/// Sums that run beside each other in [`dense_in_chains_body`]: one chain waits some four cycles for each fused multiply-add, and a
/// row of a small network is little else than that wait.
const CHAINS: usize = 4;

/// [`dense_body`] in another order: chain `c` sums the inputs `c`, `c + 4`, `c + 8`, ..., the first from the bias on, and the sum is
/// `(0 + 1) + (2 + 3)`.
#[inline(always)]
pub(crate) fn dense_in_chains_body(
    weights: &[f32],
    bias: &[f32],
    input: &[f32],
    output: &mut [f32],
) {
    let outputs = output.len();
    let wide = outputs - outputs % 16;
    for start in (0..wide).step_by(16) {
        chain_lanes::<16>(weights, bias, input, output, start);
    }
    let eights = outputs - outputs % 8;
    for start in (wide..eights).step_by(8) {
        chain_lanes::<8>(weights, bias, input, output, start);
    }
    for start in eights..outputs {
        chain_lanes::<1>(weights, bias, input, output, start);
    }
}

#[inline(always)]
fn chain_lanes<const N: usize>(
    weights: &[f32],
    bias: &[f32],
    input: &[f32],
    output: &mut [f32],
    start: usize,
) {
    let outputs = output.len();
    let mut sums = [[0.0_f32; N]; CHAINS];
    sums[0].copy_from_slice(&bias[start..start + N]);
    let (blocks, rest) = input.as_chunks::<CHAINS>();
    let rows = weights.chunks_exact(CHAINS * outputs);
    let last = rows.remainder();
    for (rows, inputs) in rows.zip(blocks) {
        for (c, x) in inputs.iter().enumerate() {
            let row = &rows[c * outputs + start..][..N];
            for (sum, weight) in sums[c].iter_mut().zip(row) {
                *sum = weight.mul_add(*x, *sum);
            }
        }
    }
    for (c, x) in rest.iter().enumerate() {
        let row = &last[c * outputs + start..][..N];
        for (sum, weight) in sums[c].iter_mut().zip(row) {
            *sum = weight.mul_add(*x, *sum);
        }
    }
    for (j, output) in output[start..start + N].iter_mut().enumerate() {
        *output = (sums[0][j] + sums[1][j]) + (sums[2][j] + sums[3][j]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The distance in units of the last place of the right answer.
    fn ulps(got: f32, exact: f64) -> f64 {
        let near = exact as f32;
        let unit = f64::from(f32::from_bits(near.abs().to_bits() + 1)) - f64::from(near.abs());
        (f64::from(got) - exact).abs() / unit
    }

    fn worst(low: f32, high: f32, ours: fn(f32) -> f32, exact: fn(f64) -> f64) -> f64 {
        let point = |i: u32| low + (high - low) * (i as f32 / 1e6);
        (0..=1_000_000)
            .map(point)
            .map(|x| ulps(ours(x), exact(f64::from(x))))
            .fold(0.0, f64::max)
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        assert!(worst(-87.0, 88.5, exp, f64::exp) <= 2.0);
        assert!(worst(-1.0, 1.0, exp, f64::exp) <= 2.0);
        assert_eq!((exp(0.0), exp(-1e9), exp(1e9)), (1.0, 0.0, f32::INFINITY));
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_is_within_three_units_in_the_last_place() {
        for size in [0.1, 0.6, 2.0, 12.0] {
            let off = worst(-size, size, tanh, f64::tanh);
            assert!(off <= 3.0, "{off} up to {size}");
        }
        assert_eq!(
            (tanh(0.0), tanh(f32::INFINITY), tanh(-f32::MAX)),
            (0.0, 1.0, -1.0)
        );
        assert!(tanh(f32::NAN).is_nan());
    }

    #[test]
    fn ln_is_within_three_units_in_the_last_place() {
        assert!(worst(1e-3, 0.9, ln, f64::ln) <= 3.0);
        assert!(worst(1.1, 1e6, ln, f64::ln) <= 3.0);
        let near_one = (0..10_000).map(|i| 0.9 + i as f32 * 2e-5);
        assert!(
            near_one
                .map(|x| (f64::from(ln(x)) - f64::from(x).ln()).abs())
                .fold(0.0, f64::max)
                < 1e-7
        );
        assert_eq!(
            (ln(1.0), ln(0.0), ln(f32::INFINITY)),
            (0.0, f32::NEG_INFINITY, f32::INFINITY)
        );
        assert!(ln(-1.0).is_nan());
    }

    #[test]
    fn sigmoid_and_softplus_are_close_on_both_sides() {
        let exact = |x: f64| 1.0 / (1.0 + (-x).exp());
        assert!(worst(-80.0, 80.0, sigmoid, exact) <= 4.0);
        assert!(worst(-3.0, 3.0, sigmoid, exact) <= 4.0);
        assert_eq!((sigmoid(-1e9), sigmoid(0.0), sigmoid(1e9)), (0.0, 0.5, 1.0));
        let exact = |x: f64| x.exp().ln_1p();
        let off = worst(-80.0, 60.0, softplus, exact);
        assert!(off <= 8.0, "{off}");
        assert_eq!((softplus(-1e9), softplus(1e9)), (0.0, 1e9));
        assert!(sigmoid(f32::NAN).is_nan() && softplus(f32::NAN).is_nan());
    }

    #[test]
    fn exp_m1_and_ln_1p_keep_their_digits_near_zero() {
        for low in [-80.0, -1.0, -1e-3] {
            let off = worst(low, low * 1e-6, exp_m1, f64::exp_m1);
            assert!(off <= 8.0, "{off} from {low}");
        }
        for high in [1e-6, 1e-2, 2.0, 1e30] {
            let off = worst(high * 1e-6, high, ln_1p, f64::ln_1p);
            assert!(off <= 4.0, "{off} up to {high}");
        }
        assert_eq!((exp_m1(0.0), ln_1p(0.0)), (0.0, 0.0));
    }

    /// The integral by Simpson's rule, 2,000 pieces from 0.
    fn exact_erf(x: f64) -> f64 {
        let (pieces, f) = (2_000, |t: f64| (-t * t).exp());
        let h = x / f64::from(pieces);
        let inner = |i: i32| f64::from(2 + 2 * (i % 2)) * f(f64::from(i) * h);
        let sum = f(0.0) + f(x) + (1..pieces).map(inner).sum::<f64>();
        sum * h / 3.0 * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn erf_is_within_four_units_in_the_last_place() {
        for i in 1..2_000 {
            let x = i as f32 * 0.002;
            let off = ulps(erf(x), exact_erf(f64::from(x)));
            assert!(off <= 4.0, "{off} at {x}");
            assert_eq!(erf(-x), -erf(x));
        }
        assert_eq!((erf(0.0), erf(-0.0), erf(1e9)), (0.0, 0.0, 1.0));
        assert!(erf(f32::NAN).is_nan());
    }

    #[test]
    fn gelu_keeps_its_digits_below_zero() {
        for i in -2_500..2_500_i32 {
            let x = i as f32 * 0.002;
            let z = f64::from(x) / 2f64.sqrt();
            // Far out the integral from 0 cancels in f64 too: 1e-15 of 1 is then what can be asked.
            let exact = f64::from(x) * 0.5 * (1.0 + exact_erf(z));
            let off = (f64::from(gelu(x)) - exact).abs();
            assert!(off <= 2e-6 * exact.abs() + 1e-12, "{off} at {x}");
        }
        assert_eq!((gelu(0.0), gelu(-20.0), gelu(20.0)), (0.0, -0.0, 20.0));
        assert!(gelu(f32::NAN).is_nan());
    }

    #[test]
    fn the_portable_and_the_vector_build_give_the_same_bits() {
        let wave = |n: usize, step: f32| -> Vec<f32> {
            (0..n).map(|i| (i as f32 * step).sin() * 3.0).collect()
        };
        for (inputs, outputs) in [(1, 1), (3, 7), (8, 8), (64, 41), (240, 96)] {
            let (weights, bias, input) = (
                wave(inputs * outputs, 0.37),
                wave(outputs, 0.11),
                wave(inputs, 0.73),
            );
            let (mut fast, mut portable) = (vec![0.0; outputs], vec![0.0; outputs]);
            dense(&weights, &bias, &input, &mut fast);
            dense_portable(&weights, &bias, &input, &mut portable);
            assert_eq!(
                fast.iter().map(|v| v.to_bits()).collect::<Vec<_>>(),
                portable.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
            );
            let alone: Vec<_> = portable
                .iter()
                .map(|value| tanh(*value).to_bits())
                .collect();
            tanh_all(&mut fast);
            assert_eq!(fast.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), alone);
        }
    }
}
