//! Which column is what: the time, the features by name or order, labels to leave alone. Pure.

use super::time;
use std::fmt;

/// Names of columns that hold the time, in plain form.
const TIME_NAMES: [&str; 9] = [
    "datetime",
    "timestamp",
    "ts",
    "time",
    "date",
    "unixtime",
    "epochms",
    "tsms",
    "timestampms",
];
/// Names of columns that hold the truth, in plain form.
const LABEL_NAMES: [&str; 7] = [
    "anomaly",
    "changepoint",
    "label",
    "labels",
    "target",
    "class",
    "isanomaly",
];

/// The header, with the time column found.
#[derive(Debug)]
pub struct Columns {
    pub names: Vec<String>,
    pub time: Option<usize>,
}

/// What was read as what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Features in order; the columns' own names where the endpoint's are not known.
    pub features: Vec<String>,
    /// The column of each feature.
    pub(super) columns: Vec<usize>,
    /// Features that were given a column by its place: (column's name, feature).
    pub by_order: Vec<(String, String)>,
    /// Columns that are left alone.
    pub ignored: Vec<String>,
    /// Name of the time column.
    pub time: Option<String>,
}

/// Columns that do not fit the endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no column for {}; columns that fit no feature: {}", list(.features), list(.left))]
pub struct MappingError {
    /// Features without a column.
    pub features: Vec<String>,
    /// Columns without a feature.
    pub left: Vec<String>,
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

/// A name as it is compared: letters and digits in lower case.
fn plain(name: &str) -> String {
    name.chars()
        .filter(|c| c.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect()
}

impl Columns {
    /// Finds the time column by its name, else by the first row's form.
    pub fn new(names: &csv::StringRecord, first: &csv::StringRecord) -> Result<Self, String> {
        let names: Vec<String> = names.iter().map(str::to_owned).collect();
        if names.iter().all(String::is_empty) {
            return Err("the first line names no columns".to_owned());
        }
        if names
            .iter()
            .any(|name| name.parse::<f64>().is_ok() || time::is_iso(name))
        {
            return Err(
                "the first line holds values where the columns' names are expected".to_owned(),
            );
        }
        let named = |name: &String| TIME_NAMES.contains(&plain(name).as_str());
        let by_name = names.iter().position(named);
        let by_form = || first.iter().position(time::is_iso);
        let time = by_name.or_else(by_form);
        Ok(Self { names, time })
    }

    /// Gives each feature a column: by name, and what is left by order where the numbers agree.
    pub fn map(&self, features: &[String]) -> Result<Mapping, MappingError> {
        let mut left = self.values_columns(features);
        if features.is_empty() {
            return Ok(self.mapping(
                left.iter().map(|&c| (c, self.names[c].clone())).collect(),
                &[],
            ));
        }
        let mut given: Vec<Option<usize>> = features
            .iter()
            .map(|feature| self.take_named(feature, &mut left))
            .collect();
        let open: Vec<usize> = (0..features.len())
            .filter(|&f| given[f].is_none())
            .collect();
        if open.len() != left.len() && !open.is_empty() {
            return Err(MappingError {
                features: open.iter().map(|&f| features[f].clone()).collect(),
                left: left.iter().map(|&c| self.names[c].clone()).collect(),
            });
        }
        open.iter()
            .zip(&left)
            .for_each(|(&feature, &column)| given[feature] = Some(column));
        let pairs = given
            .into_iter()
            .zip(features)
            .filter_map(|(c, f)| Some((c?, f.clone())));
        Ok(self.mapping(pairs.collect(), &open))
    }

    /// Columns that may hold a feature: all but the time and labels, unless a feature has a label's name.
    fn values_columns(&self, features: &[String]) -> Vec<usize> {
        let wanted: Vec<String> = features.iter().map(|feature| plain(feature)).collect();
        let is_label =
            |name: &str| LABEL_NAMES.contains(&name) && !wanted.iter().any(|w| w == name);
        (0..self.names.len())
            .filter(|&column| Some(column) != self.time && !is_label(&plain(&self.names[column])))
            .collect()
    }

    fn take_named(&self, feature: &str, left: &mut Vec<usize>) -> Option<usize> {
        let wanted = plain(feature);
        let place = left
            .iter()
            .position(|&column| plain(&self.names[column]) == wanted)?;
        Some(left.remove(place))
    }

    fn mapping(&self, pairs: Vec<(usize, String)>, by_order: &[usize]) -> Mapping {
        let used =
            |column: usize| Some(column) == self.time || pairs.iter().any(|(c, _)| *c == column);
        let ignored = (0..self.names.len())
            .filter(|&c| !used(c))
            .map(|c| self.names[c].clone());
        let ordered = by_order
            .iter()
            .map(|&f| (self.names[pairs[f].0].clone(), pairs[f].1.clone()));
        Mapping {
            ignored: ignored.collect(),
            by_order: ordered.collect(),
            time: self.time.map(|column| self.names[column].clone()),
            columns: pairs.iter().map(|(column, _)| *column).collect(),
            features: pairs.into_iter().map(|(_, feature)| feature).collect(),
        }
    }
}

/// One line for people: what was read as what, where it is not obvious.
impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} features", self.features.len())?;
        match &self.time {
            Some(time) => write!(f, ", time from {time:?}")?,
            None => write!(f, ", no time column")?,
        }
        for (column, feature) in &self.by_order {
            write!(f, ", {column:?} taken as {feature} by order")?;
        }
        if !self.ignored.is_empty() {
            write!(f, ", ignored: {}", self.ignored.join(", "))?;
        }
        Ok(())
    }
}
