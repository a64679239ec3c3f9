//! The exported models that lie beside this file, with what ONNX Runtime answered; `make.py` writes them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use tidegate_models::load::Files;
use tidegate_models::onnx::{self, Options, Plan};

/// A model, its rows, and what ONNX Runtime answered to each.
#[derive(Deserialize)]
pub struct Case {
    /// Of the file, without its end.
    pub name: String,
    /// `None` for a missing value.
    pub rows: Vec<Vec<Option<f32>>>,
    /// By output: one list a row, of numbers, labels or truths.
    pub outputs: BTreeMap<String, Vec<Vec<Value>>>,
    /// Names of the columns, where inputs go by them.
    #[serde(default)]
    pub features: Vec<String>,
    /// State inputs and their outputs.
    #[serde(default)]
    pub states: Vec<(String, String)>,
    /// Files beside the graph.
    #[serde(default)]
    pub files: Vec<String>,
}

impl Case {
    /// With NaN where a value is missing.
    pub fn rows(&self) -> Vec<Vec<f32>> {
        let row = |row: &Vec<Option<f32>>| row.iter().map(|x| x.unwrap_or(f32::NAN)).collect();
        self.rows.iter().map(row).collect()
    }

    /// What is known of the graph beside its file.
    pub fn options(&self) -> Options {
        Options {
            inputs: self.rows.first().map(Vec::len),
            features: self.features.clone(),
            states: self.states.clone(),
            ..Options::default()
        }
    }

    /// The graph's file.
    pub fn file(&self) -> String {
        format!("{}.onnx", self.name)
    }

    /// The graph and the files it needs.
    pub fn read(&self) -> Files {
        let names = self.files.iter().cloned().chain([self.file()]);
        let bytes = |name: &str| Cow::Owned(std::fs::read(folder().join(name)).expect("a fixture"));
        names.map(|name| (name.clone(), bytes(&name))).collect()
    }

    /// The graph compiled.
    pub fn plan(&self) -> Plan {
        onnx::compile(&self.read(), &self.file(), &self.options())
            .unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx")
}

/// All of them.
pub fn cases() -> Vec<Case> {
    let text = std::fs::read_to_string(folder().join("cases.json")).expect("the cases");
    // Python writes the missing value as a word that JSON has not.
    serde_json::from_str(&text.replace("NaN", "null")).expect("cases as written by make.py")
}
