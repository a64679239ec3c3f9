//! The chart as a plain candle graph in f64: whole vectors and matrices, no packing, no thought of speed.
//!
//! It reads and writes the same state as the row step, so both can be compared reading by reading.

use candle_core::{D, DType, Device, Result, Tensor};

use super::{COUNT, MAX_SCORE, Mewma, PEAK, THRESHOLD, triangle};
use crate::Output;

impl Mewma {
    pub(super) fn step_on_candle(&self, state: &mut [f32], values: &[f32]) -> Result<Output> {
        // Choosing known values is bookkeeping, not arithmetic: both forms share it.
        self.take(state, values);
        let x = vector(&state[self.at.last.clone()])?;
        let fast = vector(&state[self.at.fast.clone()])?;
        let fast = stored(&(&fast + ((&x - &fast)? * self.config.lambda)?)?)?;
        let base = vector(&state[self.at.base.clone()])?;
        let towards = |weight: f64| stored(&(&base + ((&x - &base)? * weight)?)?);

        let seen = state[COUNT] as u32;
        if seen >= self.calibration {
            let score = self.hotelling(state, &(&fast - &base)?)? as f32;
            let threshold = state[THRESHOLD];
            let anomaly = score > threshold;
            let base = towards(if anomaly {
                self.config.recovery
            } else {
                self.config.baseline
            })?;
            write(state, self.at.fast.start, &fast)?;
            write(state, self.at.base.start, &base)?;
            return Ok(Output::Anomaly {
                score,
                threshold,
                anomaly,
            });
        }
        let seen = seen + 1;
        state[COUNT] = seen as f32;
        let base = towards(self.config.baseline.max(1.0 / f64::from(seen)))?;
        write(state, self.at.fast.start, &fast)?;
        write(state, self.at.base.start, &base)?;
        self.learn(state, seen, &(fast - base)?)?;
        Ok(Output::Calibrating {
            seen,
            needed: self.calibration,
        })
    }

    fn learn(&self, state: &mut [f32], seen: u32, deviation: &Tensor) -> Result<()> {
        if seen > self.calibration / 2 {
            self.learn_shape(state)?;
            state[PEAK] = state[PEAK].max(self.hotelling(state, deviation)? as f32);
        }
        if let Some(taken) = seen
            .checked_sub(self.config.settling())
            .filter(|taken| *taken > 0)
        {
            let second = self.second(state)?;
            let outer = deviation.unsqueeze(1)?.matmul(&deviation.unsqueeze(0)?)?;
            let second = (&second + ((outer - &second)? / f64::from(taken))?)?.to_vec2::<f64>()?;
            for i in 0..self.features {
                for j in 0..=i {
                    state[self.at.second.start + triangle(i, j)] = second[i][j] as f32;
                }
            }
        }
        if seen == self.calibration {
            self.learn_shape(state)?;
            let usual = (self.features as f64).sqrt().max(f64::from(state[PEAK]));
            state[THRESHOLD] = (self.config.margin * usual).min(MAX_SCORE) as f32;
        }
        Ok(())
    }

    /// Scale and whitening matrix from the second moments.
    fn learn_shape(&self, state: &mut [f32]) -> Result<()> {
        let n = self.features;
        let scales: Vec<_> = (0..n).map(|j| self.scale(state, j) as f32).collect();
        let scale = vector(&scales)?;
        let product = scale.unsqueeze(1)?.matmul(&scale.unsqueeze(0)?)?;
        let raw = (self.second(state)? / product)?.clamp(-1.0, 1.0)?;
        let eye = Tensor::eye(n, DType::F64, &Device::Cpu)?;
        let other = (Tensor::ones((n, n), DType::F64, &Device::Cpu)? - &eye)?;
        let shrunk = ((raw * other)? * (1.0 - self.config.shrinkage))? + &eye;
        let inverse = inverse_factor(&shrunk?)?.to_vec2::<f64>()?;
        write(state, self.at.scale.start, &scale)?;
        let columns = (0..n).flat_map(|j| (j..n).map(move |i| (i, j)));
        for (place, (i, j)) in self.at.whiten.clone().zip(columns) {
            state[place] = inverse[i][j] as f32;
        }
        Ok(())
    }

    fn hotelling(&self, state: &[f32], deviation: &Tensor) -> Result<f64> {
        let z = (deviation / vector(&state[self.at.scale.clone()])?)?;
        let n = self.features;
        let mut whiten = vec![0.0_f64; n * n];
        let columns = (0..n).flat_map(|j| (j..n).map(move |i| (i, j)));
        for (place, (i, j)) in self.at.whiten.clone().zip(columns) {
            whiten[i * n + j] = f64::from(state[place]);
        }
        let y = Tensor::from_vec(whiten, (n, n), &Device::Cpu)?.matmul(&z.unsqueeze(1)?)?;
        Ok(y.sqr()?
            .sum_all()?
            .sqrt()?
            .to_scalar::<f64>()?
            .min(MAX_SCORE))
    }

    fn second(&self, state: &[f32]) -> Result<Tensor> {
        let n = self.features;
        let entry =
            |place: usize| f64::from(state[self.at.second.start + triangle(place / n, place % n)]);
        Tensor::from_vec(
            (0..n * n).map(entry).collect::<Vec<_>>(),
            (n, n),
            &Device::Cpu,
        )
    }
}

/// The inverse of the lower Cholesky factor: row operations turn [R | I] into [L' | L^-1].
fn inverse_factor(matrix: &Tensor) -> Result<Tensor> {
    let n = matrix.dim(0)?;
    let eye = Tensor::eye(n, DType::F64, &Device::Cpu)?;
    let mut rows = Tensor::cat(&[matrix, &eye], 1)?;
    let mut done = Vec::new();
    for _ in 0..n {
        let k = done.len();
        let pivot = rows.get(0)?.get(k)?.to_scalar::<f64>()?.max(1e-6);
        let row = (rows.narrow(0, 0, 1)? / pivot.sqrt())?;
        if k + 1 < n {
            let rest = rows.narrow(0, 1, n - k - 1)?;
            let factors = (rest.narrow(1, k, 1)? / pivot.sqrt())?;
            rows = (&rest - factors.matmul(&row)?)?;
        }
        done.push(row);
    }
    Tensor::cat(&done, 0)?.narrow(D::Minus1, n, n)
}

fn vector(values: &[f32]) -> Result<Tensor> {
    Tensor::new(values, &Device::Cpu)?.to_dtype(DType::F64)
}

/// Rounded to f32 as the state keeps it.
fn stored(values: &Tensor) -> Result<Tensor> {
    values.to_dtype(DType::F32)?.to_dtype(DType::F64)
}

fn write(state: &mut [f32], start: usize, values: &Tensor) -> Result<()> {
    let values = values.to_dtype(DType::F32)?.to_vec1::<f32>()?;
    state[start..start + values.len()].copy_from_slice(&values);
    Ok(())
}
