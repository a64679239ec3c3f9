//! The `[architecture]` table: its `kind` chooses an algorithm, the rest are the algorithm's own parameters.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::text::parameters_of;
use super::{Mistake, check};
use crate::network::{MAX_WIDTH, check_count, linear, mlp, pca, recurrent, tcn, trees};
use crate::{autoencoder, mewma};

/// Most outputs or states named of an ONNX graph.
const MAX_NAMES: usize = 64;

/// The algorithm of a version and its parameters; `kind` in the `[architecture]` table chooses.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Architecture {
    /// [`mewma`]: a self-calibrating control chart.
    Mewma(mewma::Config),
    /// [`autoencoder`]: a neural network over a short window.
    Autoencoder(autoencoder::Config),
    /// [`linear`]: one layer.
    Linear(linear::Config),
    /// [`mlp`]: a few dense layers.
    Mlp(mlp::Config),
    /// [`recurrent`]: gated recurrent units.
    Gru(recurrent::Config),
    /// [`recurrent`]: long short-term memory.
    Lstm(recurrent::Config),
    /// [`tcn`]: causal convolutions over time.
    Tcn(tcn::Config),
    /// [`pca`]: T2 and Q of principal components.
    Pca(pca::Config),
    /// [`trees`]: an ensemble of decision trees.
    Trees(trees::Config),
    /// A graph read from a file.
    Onnx(OnnxConfig),
}

/// Parameters of `kind = "onnx"`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnnxConfig {
    /// The graph's file in the version's folder.
    #[serde(default = "default_file")]
    pub file: String,
    /// The graph's outputs to use, in order; all that are no states where the list is empty.
    #[serde(default)]
    pub outputs: Vec<String>,
    /// State outputs that are the next row's state inputs.
    #[serde(default)]
    pub states: Vec<StatePair>,
    /// Sizes of dimensions that the graph only names.
    #[serde(default)]
    pub dims: BTreeMap<String, usize>,
    /// How a window lies in the graph's input, where its dimensions do not tell.
    pub layout: Option<WindowLayout>,
}

/// How the rows of a window lie in a graph's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowLayout {
    /// `[1, window, features]`.
    RowsFirst,
    /// `[1, features, window]`, as convolutions take it.
    ChannelsFirst,
}

/// A state that a graph takes and gives.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatePair {
    /// The graph's input; zeros before the first row.
    pub input: String,
    /// The graph's output that goes into it with the next row.
    pub output: String,
}

fn default_file() -> String {
    "model.onnx".to_owned()
}

impl OnnxConfig {
    fn check(&self) -> Result<(), Mistake> {
        let plain = !self.file.is_empty()
            && self.file.len() <= 128
            && !self.file.starts_with('.')
            && !self.file.contains(['/', '\\']);
        check(
            plain,
            "file",
            "is not the name of a file in the version's folder",
        )?;
        for (field, count) in [
            ("outputs", self.outputs.len()),
            ("states", self.states.len()),
            ("dims", self.dims.len()),
        ] {
            check(
                count <= MAX_NAMES,
                field,
                &format!("names more than {MAX_NAMES}"),
            )?;
        }
        for (name, size) in &self.dims {
            check_count(*size, MAX_WIDTH, &format!("dims.{name}"))?;
        }
        Ok(())
    }
}

impl Architecture {
    /// The word in the manifest.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Mewma(_) => "mewma",
            Self::Autoencoder(_) => "autoencoder",
            Self::Linear(_) => "linear",
            Self::Mlp(_) => "mlp",
            Self::Gru(_) => "gru",
            Self::Lstm(_) => "lstm",
            Self::Tcn(_) => "tcn",
            Self::Pca(_) => "pca",
            Self::Trees(_) => "trees",
            Self::Onnx(_) => "onnx",
        }
    }

    /// Whether it is a network between declared stages, rather than a detector that answers by itself.
    pub fn is_declared(&self) -> bool {
        !matches!(self, Self::Mewma(_) | Self::Autoencoder(_))
    }

    /// One arm an architecture: its parameters are a struct of its own with a `check` of its own.
    pub(super) fn parse(kind: &str, table: toml::Table) -> Result<Self, Mistake> {
        const PATH: &str = "architecture";
        match kind {
            "mewma" => parameters_of(table, PATH, mewma::Config::check).map(Self::Mewma),
            "autoencoder" => {
                parameters_of(table, PATH, autoencoder::Config::check).map(Self::Autoencoder)
            }
            "linear" => parameters_of(table, PATH, linear::Config::check).map(Self::Linear),
            "mlp" => parameters_of(table, PATH, mlp::Config::check).map(Self::Mlp),
            "gru" => parameters_of(table, PATH, recurrent::Config::check).map(Self::Gru),
            "lstm" => parameters_of(table, PATH, recurrent::Config::check).map(Self::Lstm),
            "tcn" => parameters_of(table, PATH, tcn::Config::check).map(Self::Tcn),
            "pca" => parameters_of(table, PATH, pca::Config::check).map(Self::Pca),
            "trees" => parameters_of(table, PATH, trees::Config::check).map(Self::Trees),
            "onnx" => parameters_of(table, PATH, OnnxConfig::check).map(Self::Onnx),
            other => Err(Mistake::new(
                "architecture.kind",
                format!("\"{other}\" is not an architecture of this build"),
            )),
        }
    }
}
