//! How numbers are spread: mean and deviation exactly, quantiles and the distance of two distributions from counts of fixed size.
//!
//! [`Sketch`] counts by the upper half of the f32's bits, put in the order of the numbers: 65,536 cells at most, each 1/128 of its
//! number wide. Counts add up in any order, so a report does not depend on which thread came first; [`Moments`] do not and are joined in
//! the order of streams.

use serde::Serialize;
use std::collections::BTreeMap;

/// Count, mean, squared deviations and ends of a list of numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moments {
    /// Numbers taken.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// Sum of squared deviations from it.
    squares: f64,
    /// Sum of absolute values.
    absolute: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Default for Moments {
    fn default() -> Self {
        Self {
            count: 0,
            mean: 0.0,
            squares: 0.0,
            absolute: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
        }
    }
}

impl Moments {
    /// Takes a number.
    pub fn take(&mut self, number: f64) {
        self.count += 1;
        let off = number - self.mean;
        self.mean += off / self.count as f64;
        self.squares += off * (number - self.mean);
        self.absolute += number.abs();
        self.min = self.min.min(number);
        self.max = self.max.max(number);
    }

    /// Takes all numbers of another list.
    pub fn add(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        let (own, more) = (self.count as f64, other.count as f64);
        let (both, off) = (own + more, other.mean - self.mean);
        self.mean += off * more / both;
        self.squares += other.squares + off * off * own * more / both;
        self.absolute += other.absolute;
        self.count += other.count;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// Standard deviation; 0 for fewer than two numbers.
    pub fn sd(&self) -> f64 {
        match self.count {
            0 | 1 => 0.0,
            count => (self.squares / (count - 1) as f64).sqrt(),
        }
    }

    /// Mean of the absolute values.
    pub fn mean_absolute(&self) -> f64 {
        self.absolute / (self.count as f64).max(1.0)
    }
}

/// How many numbers lie in which cell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sketch {
    cells: BTreeMap<u16, u64>,
    count: u64,
}

impl Sketch {
    /// Takes a number.
    pub fn take(&mut self, number: f32) {
        *self.cells.entry(cell_of(number)).or_default() += 1;
        self.count += 1;
    }

    /// Takes all numbers of another sketch.
    pub fn add(&mut self, other: &Self) {
        for (cell, count) in &other.cells {
            *self.cells.entry(*cell).or_default() += count;
        }
        self.count += other.count;
    }

    /// The number below which `share` (0..=1) of all lie, to 1/128 of it.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let wanted = ((share * self.count as f64).ceil() as u64).max(1);
        let mut below = 0;
        let found = self.cells.iter().find(|(_, count)| {
            below += **count;
            below >= wanted
        });
        found.map(|(cell, _)| middle_of(*cell))
    }

    /// The largest difference of the two shares below any number (Kolmogorov and Smirnov's), at the edges of cells.
    pub fn distance(&self, other: &Self) -> f64 {
        let (mut own, mut others, mut most) = (0, 0, 0.0_f64);
        let mut cells: Vec<u16> = self
            .cells
            .keys()
            .chain(other.cells.keys())
            .copied()
            .collect();
        cells.sort_unstable();
        cells.dedup();
        let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        for cell in cells {
            own += self.cells.get(&cell).copied().unwrap_or_default();
            others += other.cells.get(&cell).copied().unwrap_or_default();
            most = most.max((share(own, self.count) - share(others, other.count)).abs());
        }
        most
    }
}

/// The upper 16 bits, so turned that a larger number has a larger cell; both zeros share one.
fn cell_of(number: f32) -> u16 {
    let bits = ((number + 0.0).to_bits() >> 16) as u16;
    if bits & 0x8000 == 0 {
        bits | 0x8000
    } else {
        !bits
    }
}

/// A number from the middle of a cell; the cell of zero is zero.
fn middle_of(cell: u16) -> f64 {
    let upper = if cell & 0x8000 == 0 {
        !cell
    } else {
        cell & 0x7fff
    };
    if upper & 0x7fff == 0 {
        return 0.0;
    }
    f64::from(f32::from_bits((u32::from(upper) << 16) | 0x8000))
}

/// A distribution in a report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Standard deviation.
    pub sd: f64,
    /// Mean of the absolute values.
    pub mean_absolute: f64,
    /// Smallest.
    pub min: f64,
    /// Below it lie 5 %.
    pub q05: f64,
    /// Below it lie 25 %.
    pub q25: f64,
    /// Below it lie half.
    pub q50: f64,
    /// Below it lie 75 %.
    pub q75: f64,
    /// Below it lie 95 %.
    pub q95: f64,
    /// Largest.
    pub max: f64,
}

impl Spread {
    /// Of the same numbers, counted twice; `None` when there is none.
    pub fn of(moments: &Moments, sketch: &Sketch) -> Option<Self> {
        let (min, max) = (moments.min, moments.max);
        // A cell's middle may lie beyond the ends, which are exact.
        let quantile = |share| Some(sketch.quantile(share)?.clamp(min, max));
        Some(Self {
            mean: moments.mean,
            sd: moments.sd(),
            mean_absolute: moments.mean_absolute(),
            min,
            q05: quantile(0.05)?,
            q25: quantile(0.25)?,
            q50: quantile(0.50)?,
            q75: quantile(0.75)?,
            q95: quantile(0.95)?,
            max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sketch(numbers: &[f32]) -> Sketch {
        let mut sketch = Sketch::default();
        numbers.iter().for_each(|number| sketch.take(*number));
        sketch
    }

    fn moments(numbers: &[f64]) -> Moments {
        let mut moments = Moments::default();
        numbers.iter().for_each(|number| moments.take(*number));
        moments
    }

    #[test]
    fn cells_follow_the_order_of_numbers() {
        let numbers = [
            f32::NEG_INFINITY,
            -3e38,
            -5.0,
            -1.0,
            -1e-30,
            0.0,
            1e-30,
            0.5,
            1.0,
            1.01,
            7e9,
            f32::INFINITY,
        ];
        assert!(numbers.map(cell_of).is_sorted());
        assert_eq!(cell_of(-0.0), cell_of(0.0));
        for number in numbers.into_iter().filter(|number| number.is_finite()) {
            let (middle, number) = (middle_of(cell_of(number)), f64::from(number));
            assert!(
                (middle - number).abs() <= number.abs() / 128.0,
                "{number} in {middle}"
            );
        }
    }

    #[test]
    fn quantiles_are_those_of_the_numbers() {
        let numbers: Vec<f32> = (1..=1000).map(|n| n as f32).collect();
        let sketch = sketch(&numbers);
        for (share, expected) in [(0.05, 50.0), (0.5, 500.0), (0.95, 950.0), (1.0, 1000.0)] {
            let found = sketch.quantile(share).unwrap();
            assert!(
                (found - expected).abs() <= expected / 128.0,
                "{share}: {found}"
            );
        }
        assert_eq!(Sketch::default().quantile(0.5), None);
    }

    #[test]
    fn the_distance_is_none_for_the_same_and_whole_for_apart() {
        let (low, high) = (sketch(&[1.0, 2.0, 3.0]), sketch(&[10.0, 20.0]));
        assert_eq!(low.distance(&low), 0.0);
        assert_eq!(low.distance(&high), 1.0);
        let half = sketch(&[1.0, 2.0, 10.0, 20.0]);
        assert!((half.distance(&high) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn parts_add_up_to_the_whole() {
        let numbers: Vec<f64> = (0..100).map(|n| f64::from(n * n % 37) - 11.0).collect();
        let whole = moments(&numbers);
        let mut joined = moments(&numbers[..30]);
        joined.add(&Moments::default());
        joined.add(&moments(&numbers[30..]));
        assert!((whole.mean - joined.mean).abs() < 1e-9);
        assert!((whole.sd() - joined.sd()).abs() < 1e-9);
        assert_eq!((whole.min, whole.max), (joined.min, joined.max));
        assert!((whole.mean_absolute() - joined.mean_absolute()).abs() < 1e-9);
    }
}
