//! The head of classification endpoints: probabilities with names, and the chosen class.

use std::ops::Range;
use std::sync::Arc;

use super::config::{ClassesConfig, Link, MAX_CLASSES};
use super::{Answer, Place, Seen, failed, port};
use crate::Output;
use crate::manifest::{Mistake, check};
use crate::network::{Port, PortKind};
use crate::numerics::{exp, sigmoid};

pub(super) struct Classes {
    labels: Arc<[String]>,
    link: Link,
    /// Where one number a class lies (or the second class's, of two).
    numbers: Option<Range<usize>>,
    /// Where the index of the chosen class lies.
    class: Option<usize>,
}

impl Classes {
    pub(super) fn fit(config: &ClassesConfig, place: &Place<'_>) -> Result<Self, Mistake> {
        let chosen = |port: &&Port| port.kind == PortKind::Class;
        let class = place.ports.iter().find(chosen);
        let numbers = match (config.output.as_deref(), class) {
            (None, Some(_)) => port(place, None).ok(),
            (output, _) => Some(port(place, output)?),
        };
        let known = [numbers, class].into_iter().flatten();
        let known = known.filter_map(|port| port.classes.clone()).next();
        let labels = labels(config, known)?;
        if let Some(port) = numbers {
            let (len, classes) = (port.range.len(), labels.len());
            let second_of_two = len == 1 && classes == 2 && config.activation != Link::Softmax;
            check(
                len == classes || second_of_two,
                "labels",
                &format!("are {classes}, \"{}\" holds {len} values", port.name),
            )?;
        }
        Ok(Self {
            labels,
            link: config.activation,
            numbers: numbers.map(|port| port.range.clone()),
            class: class.map(|port| port.range.start),
        })
    }

    fn probabilities(&self, numbers: &[f32]) -> Vec<f32> {
        if numbers.len() < self.labels.len() {
            let second = match self.link {
                Link::Sigmoid => sigmoid(numbers[0]),
                Link::None | Link::Softmax => numbers[0],
            };
            return vec![1.0 - second, second];
        }
        let mut values = numbers.to_vec();
        match self.link {
            Link::None => return values,
            Link::Sigmoid => values.iter_mut().for_each(|value| *value = sigmoid(*value)),
            Link::Softmax => {
                let most = values.iter().copied().fold(f32::MIN, f32::max);
                values
                    .iter_mut()
                    .for_each(|value| *value = exp(*value - most));
            }
        }
        let mut sum = 0.0;
        values.iter().for_each(|value| sum += value);
        values.iter_mut().for_each(|value| *value /= sum);
        values
    }
}

/// The names given, which are those that the network knows where both say them.
fn labels(config: &ClassesConfig, known: Option<Arc<[String]>>) -> Result<Arc<[String]>, Mistake> {
    let labels = match (&config.labels, known) {
        (Some(given), known) => {
            let fits = known
                .as_ref()
                .is_none_or(|known| known.len() == given.len());
            let count = known.map_or(0, |known| known.len());
            let reason = format!("are {}, the network has {count} classes", given.len());
            check(fits, "labels", &reason)?;
            given.clone().into()
        }
        (None, Some(known)) => known,
        (None, None) => {
            return Err(Mistake::new(
                "labels",
                "are missing: the network does not know its classes",
            ));
        }
    };
    check(
        (2..=MAX_CLASSES).contains(&labels.len()),
        "labels",
        &format!("are {}, not 2..={MAX_CLASSES}", labels.len()),
    )?;
    Ok(labels)
}

/// The first of the largest values.
fn first_largest(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}

impl Answer for Classes {
    fn template(&self) -> Option<Output> {
        Some(Output::Classification {
            labels: self.labels.clone(),
            probabilities: vec![0.0; self.labels.len()],
            label: 0,
        })
    }

    fn answer(&self, _: &mut [f32], seen: &Seen<'_>) -> Output {
        let numbers = self.numbers.clone();
        let told = numbers.map(|range| self.probabilities(&seen.output[range]));
        let label = match (self.class.map(|at| seen.output[at]), &told) {
            (Some(class), _) if class >= 0.0 && (class as usize) < self.labels.len() => {
                class as usize
            }
            (Some(_), _) => return failed("the network chose a class that there is not"),
            (None, Some(told)) => first_largest(told),
            (None, None) => return failed("the network gives neither class nor probabilities"),
        };
        let probabilities = told.unwrap_or_else(|| {
            let sure = |index| f32::from(index == label);
            (0..self.labels.len()).map(sure).collect()
        });
        Output::Classification {
            labels: self.labels.clone(),
            probabilities,
            label,
        }
    }
}
