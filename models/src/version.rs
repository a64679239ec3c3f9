//! A version ready to run: the manifest, the model and the identity of the folder they came from. What the server holds.

use std::fmt;
use std::sync::Arc;

use crate::{Layout, Model, ModelManifest, NUMERICS_REV, Output};

/// One immutable version of a model under an endpoint; cheap to share as `Arc<Version>`.
pub struct Version {
    /// The endpoint it answers for.
    pub endpoint: Arc<str>,
    /// What its `model.toml` says.
    pub manifest: ModelManifest,
    /// SHA-256 of its folder, see [`crate::load::hash_folder`].
    pub hash: [u8; 32],
    /// The algorithm with its weights.
    pub model: Arc<dyn Model>,
    id: String,
}

impl Version {
    /// Joins the parts; `id()` becomes `name/version`.
    pub fn new(
        endpoint: Arc<str>,
        manifest: ModelManifest,
        hash: [u8; 32],
        model: Arc<dyn Model>,
    ) -> Self {
        let id = format!("{}/{}", manifest.name, manifest.version);
        Self {
            endpoint,
            manifest,
            hash,
            model,
            id,
        }
    }

    /// `model/version`, such as `mewma/1.0.0`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The model's name, such as `mewma`.
    pub fn name(&self) -> &str {
        &self.manifest.name
    }

    /// The version alone, such as `1.0.0`.
    pub fn version(&self) -> &str {
        &self.manifest.version
    }

    /// The hash as 64 lowercase hexadecimal digits.
    pub fn hash_hex(&self) -> String {
        hex(&self.hash)
    }

    /// Floats in a stream's state.
    pub fn state_len(&self) -> usize {
        self.layout().len()
    }

    /// What a stream's state is made of.
    pub fn layout(&self) -> &Layout {
        self.model.layout()
    }

    /// The state of a stream that has seen nothing.
    pub fn new_state(&self) -> Vec<f32> {
        let mut state = vec![0.0; self.state_len()];
        self.model.init(&mut state);
        state
    }

    /// The revision of the arithmetic behind [`Version::step`].
    pub fn numerics_rev(&self) -> u32 {
        NUMERICS_REV
    }

    /// Folds one reading. `silence_s`: seconds between the stored ts of the previous folded reading and of this one, 0 for the
    /// first; a negative or NaN silence counts as none. A silence above the manifest's `max_gap_s` makes the model forget first.
    pub fn step(&self, state: &mut [f32], values: &[f32], silence_s: f64) -> Output {
        if silence_s > self.manifest.max_gap_s {
            self.model.forget(state);
        }
        self.model.step(state, values)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Version({}/{} {})",
            self.endpoint,
            self.id,
            self.hash_hex()
        )
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
