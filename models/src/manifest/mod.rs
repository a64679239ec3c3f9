//! What is written beside an artifact: `endpoint.toml` and `model.toml`, read strictly.
//!
//! Unknown keys are refused and every value is checked once, here, so that the rest of the crate may rely on it. A [`Mistake`]
//! names the field and the reason; the caller adds the file. No file is opened here.

mod architecture;
#[cfg(test)]
mod tests;
mod text;

use std::fmt;

use serde::Deserialize;

use crate::postprocess::Head;
use crate::preprocess::Stage;

pub use architecture::{Architecture, OnnxConfig, StatePair, WindowLayout};
pub(crate) use text::parameters_of;
use text::{kind_of, parse_toml};

/// Words of the API that no endpoint may be called.
pub const RESERVED_NAMES: [&str; 8] = [
    "endpoints",
    "models",
    "devices",
    "samples",
    "experiments",
    "feedback",
    "audit",
    "predict",
];

/// Most features an endpoint may have; bounds every state that grows with it.
pub const MAX_FEATURES: usize = 64;

/// Longest calibration, in readings.
pub const MAX_CALIBRATION: u32 = 100_000;

const MAX_TEXT: usize = 4096;

/// What is wrong in a manifest: the field by its path and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Such as `features[2].range`.
    pub field: String,
    /// Lowercase, no full stop.
    pub reason: String,
}

impl Mistake {
    /// A mistake in `field`.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
        }
    }

    /// The same mistake seen from outside: the field lies below `path`.
    pub(crate) fn inside(self, path: &str) -> Self {
        Self::new(format!("{path}.{}", self.field), self.reason)
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.reason)
    }
}

/// What an endpoint asks of its models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Is the stream normal?
    Anomaly,
    /// Which class is it in?
    Classification,
    /// What is the value of something not measured?
    Regression,
    /// What comes next?
    Forecast,
}

impl Task {
    /// The word used on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Anomaly => "anomaly",
            Self::Classification => "classification",
            Self::Regression => "regression",
            Self::Forecast => "forecast",
        }
    }
}

/// One entry of a reading.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feature {
    /// `[a-z0-9_]{1,64}`, unique in its endpoint.
    pub name: String,
    /// For people; may be empty.
    pub unit: String,
    /// Values outside are flagged and still taken; low end first.
    pub range: Option<(f32, f32)>,
    /// Values outside are refused; contains `range`.
    pub hard_range: Option<(f32, f32)>,
}

/// `endpoint.toml`: a prediction task and its input schema.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointManifest {
    /// `[a-z0-9-]{1,64}`, the folder's name.
    pub name: String,
    /// One sentence for people.
    pub description: String,
    /// Counts changes of the schema, from 1.
    pub revision: u32,
    /// What its models answer.
    pub task: Task,
    /// The entries of a reading, in order.
    pub features: Vec<Feature>,
    /// `model/version` served while no status says otherwise.
    pub default: String,
}

/// What is done to readings before the architecture sees them.
#[derive(Debug, Clone, PartialEq)]
pub enum Preprocessing {
    /// Nothing that is declared.
    None,
    /// Mean and scale of this stream, learned in its calibration; the architecture's own.
    StandardisePerStream,
    /// Stages, in their order.
    Stages(Vec<Stage>),
}

impl Preprocessing {
    fn parse(value: toml::Value) -> Result<Self, Mistake> {
        match value {
            toml::Value::String(word) if word == "none" => Ok(Self::None),
            toml::Value::String(word) if word == "standardise-per-stream" => {
                Ok(Self::StandardisePerStream)
            }
            toml::Value::Array(tables) => {
                let stages = tables.into_iter().enumerate().map(|(index, table)| {
                    let path = format!("preprocessing[{index}]");
                    let (kind, table) = kind_of(table, &path)?;
                    Stage::parse(&kind, table, &path)
                });
                stages.collect::<Result<_, _>>().map(Self::Stages)
            }
            _ => Err(Mistake::new(
                "preprocessing",
                "is neither \"none\" nor a list of [[preprocessing]] tables",
            )),
        }
    }

    /// The declared stages; none for the words.
    pub fn stages(&self) -> &[Stage] {
        match self {
            Self::Stages(stages) => stages,
            Self::None | Self::StandardisePerStream => &[],
        }
    }
}

/// Where the weights come from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// The data in words; `none` for a model that needs no training.
    pub data: String,
    /// SHA-256 of the data or of what generates it, 64 hexadecimal digits; empty for `none`.
    pub hash: String,
}

/// `model.toml`: everything about a version that is not its weights.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelManifest {
    /// `[a-z0-9-]{1,64}`, the folder's name.
    pub name: String,
    /// `major.minor.patch`, the folder's name.
    pub version: String,
    /// The algorithm with its parameters.
    pub architecture: Architecture,
    /// What is done to readings first.
    pub preprocessing: Preprocessing,
    /// What is made of the network's output; none for an architecture that answers by itself.
    pub postprocessing: Option<Head>,
    /// The features it was trained on, in order, where the file names them; they are then those of the endpoint.
    pub features: Option<Vec<String>>,
    /// Readings that determine the state besides what the calibration learned; folding as many warms a new version.
    pub memory: u32,
    /// Readings a stream's calibration takes; 0 for a model without one.
    pub calibration: u32,
    /// A silence longer than this, in seconds, makes the model forget its short memory.
    pub max_gap_s: f64,
    /// Who made it.
    pub author: String,
    /// The day it was made, `YYYY-MM-DD`.
    pub created: String,
    /// Where the weights come from.
    pub training: Training,
    /// What it is for, and what it is not for.
    pub intended_use: String,
    /// SPDX expression.
    pub licence: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawModelManifest {
    name: String,
    version: String,
    architecture: toml::Value,
    #[serde(default = "no_preprocessing")]
    preprocessing: toml::Value,
    postprocessing: Option<toml::Value>,
    features: Option<Vec<String>>,
    memory: u32,
    calibration: u32,
    max_gap_s: f64,
    author: String,
    created: String,
    training: Training,
    intended_use: String,
    licence: String,
}

impl EndpointManifest {
    /// Reads and checks the text of an `endpoint.toml`.
    pub fn parse(text: &str) -> Result<Self, Mistake> {
        let manifest: Self = parse_toml(text)?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), Mistake> {
        check_name("name", &self.name)?;
        if RESERVED_NAMES.contains(&self.name.as_str()) {
            return Err(Mistake::new(
                "name",
                format!("\"{}\" is a word of the API", self.name),
            ));
        }
        check_text("description", &self.description)?;
        check(self.revision >= 1, "revision", "starts at 1")?;
        check(
            !self.features.is_empty(),
            "features",
            "an endpoint has at least one",
        )?;
        check(
            self.features.len() <= MAX_FEATURES,
            "features",
            &format!("at most {MAX_FEATURES} are supported"),
        )?;
        for (index, feature) in self.features.iter().enumerate() {
            let twice = self.features[..index]
                .iter()
                .any(|other| other.name == feature.name);
            check(
                !twice,
                &format!("features[{index}].name"),
                &format!("\"{}\" is named twice", feature.name),
            )?;
            feature.check(index)?;
        }
        let (model, version) = self.default.split_once('/').unwrap_or((&self.default, ""));
        check_name("default", model)?;
        check_version("default", version)
    }
}

impl Feature {
    fn check(&self, index: usize) -> Result<(), Mistake> {
        let field = |name: &str| format!("features[{index}].{name}");
        let form = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let fits = (1..=64).contains(&self.name.len()) && self.name.chars().all(form);
        check(
            fits,
            &field("name"),
            &format!("\"{}\" is not of the form [a-z0-9_]{{1,64}}", self.name),
        )?;
        check(
            self.unit.len() <= 64,
            &field("unit"),
            "is longer than 64 bytes",
        )?;
        for (name, range) in [("range", self.range), ("hard_range", self.hard_range)] {
            let ordered =
                range.is_none_or(|(low, high)| low.is_finite() && high.is_finite() && low < high);
            check(
                ordered,
                &field(name),
                "is two finite numbers, the lower first",
            )?;
        }
        let inside = match (self.range, self.hard_range) {
            (Some(range), Some(hard)) => hard.0 <= range.0 && range.1 <= hard.1,
            _ => true,
        };
        check(inside, &field("hard_range"), "does not contain range")
    }
}

impl ModelManifest {
    /// Reads and checks the text of a `model.toml`.
    pub fn parse(text: &str) -> Result<Self, Mistake> {
        let raw: RawModelManifest = parse_toml(text)?;
        let (kind, table) = kind_of(raw.architecture, "architecture")?;
        let architecture = Architecture::parse(&kind, table)?;
        let head = |table| {
            let (kind, table) = kind_of(table, "postprocessing")?;
            Head::parse(&kind, table, "postprocessing")
        };
        let manifest = Self {
            name: raw.name,
            version: raw.version,
            architecture,
            preprocessing: Preprocessing::parse(raw.preprocessing)?,
            postprocessing: raw.postprocessing.map(head).transpose()?,
            features: raw.features,
            memory: raw.memory,
            calibration: raw.calibration,
            max_gap_s: raw.max_gap_s,
            author: raw.author,
            created: raw.created,
            training: raw.training,
            intended_use: raw.intended_use,
            licence: raw.licence,
        };
        manifest.check()?;
        Ok(manifest)
    }

    /// An architecture that answers by itself has no declared parts; every other has a head.
    fn check_parts(&self) -> Result<(), Mistake> {
        let kind = self.architecture.kind();
        if self.architecture.is_declared() {
            check(
                self.preprocessing != Preprocessing::StandardisePerStream,
                "preprocessing",
                &format!(
                    "\"standardise-per-stream\" is no stage of \"{kind}\": declare kind = \"standardise\" with calibrated = true"
                ),
            )?;
            return check(
                self.postprocessing.is_some(),
                "postprocessing",
                &format!("is missing: what is made of the output of \"{kind}\"?"),
            );
        }
        check(
            self.preprocessing.stages().is_empty(),
            "preprocessing",
            &format!("\"{kind}\" prepares its readings by itself: no tables here"),
        )?;
        check(
            self.postprocessing.is_none(),
            "postprocessing",
            &format!("\"{kind}\" answers by itself: no table here"),
        )
    }

    fn check(&self) -> Result<(), Mistake> {
        self.check_parts()?;
        check_name("name", &self.name)?;
        check_version("version", &self.version)?;
        check(
            self.memory <= MAX_CALIBRATION,
            "memory",
            &format!("is above {MAX_CALIBRATION}"),
        )?;
        check(
            self.calibration <= MAX_CALIBRATION,
            "calibration",
            &format!("is above {MAX_CALIBRATION}"),
        )?;
        check(
            self.max_gap_s.is_finite() && self.max_gap_s > 0.0,
            "max_gap_s",
            "is not a positive number of seconds",
        )?;
        check_text("author", &self.author)?;
        check(
            is_date(&self.created),
            "created",
            &format!("\"{}\" is not of the form YYYY-MM-DD", self.created),
        )?;
        check_text("training.data", &self.training.data)?;
        let hash = &self.training.hash;
        let digits = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
        let untrained = hash.is_empty() && self.training.data == "none";
        check(
            digits || untrained,
            "training.hash",
            "is not 64 hexadecimal digits (or empty, for data = \"none\")",
        )?;
        check_text("intended_use", &self.intended_use)?;
        check_text("licence", &self.licence)
    }
}

fn no_preprocessing() -> toml::Value {
    toml::Value::Array(Vec::new())
}

/// Whether `name` has the form `[a-z0-9-]{1,64}` of endpoints and models.
pub fn is_name(name: &str) -> bool {
    let form = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=64).contains(&name.len()) && name.chars().all(form)
}

/// Whether `version` has the form `[0-9]+\.[0-9]+\.[0-9]+`, at most 64 characters.
pub fn is_version(version: &str) -> bool {
    let parts: Vec<_> = version.split('.').collect();
    let number = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    version.len() <= 64 && parts.len() == 3 && parts.iter().all(number)
}

/// `Err` naming the field unless `holds`; for the checks of an architecture's parameters too.
pub fn check(holds: bool, field: &str, reason: &str) -> Result<(), Mistake> {
    if holds {
        Ok(())
    } else {
        Err(Mistake::new(field, reason))
    }
}

fn check_name(field: &str, name: &str) -> Result<(), Mistake> {
    check(
        is_name(name),
        field,
        &format!("\"{name}\" is not of the form [a-z0-9-]{{1,64}}"),
    )
}

fn check_version(field: &str, version: &str) -> Result<(), Mistake> {
    check(
        is_version(version),
        field,
        &format!("\"{version}\" is not of the form major.minor.patch"),
    )
}

fn check_text(field: &str, text: &str) -> Result<(), Mistake> {
    check(!text.trim().is_empty(), field, "is empty")?;
    check(
        text.len() <= MAX_TEXT,
        field,
        &format!("is longer than {MAX_TEXT} bytes"),
    )
}

fn is_date(text: &str) -> bool {
    let form = |(index, byte): (usize, u8)| {
        if matches!(index, 4 | 7) {
            byte == b'-'
        } else {
            byte.is_ascii_digit()
        }
    };
    let number = |range| {
        text.get(range)
            .and_then(|digits: &str| digits.parse::<u32>().ok())
    };
    text.len() == 10
        && text.bytes().enumerate().all(form)
        && number(5..7).is_some_and(|month| (1..=12).contains(&month))
        && number(8..10).is_some_and(|day| (1..=31).contains(&day))
}
