//! Which recorded versions can run here: those that are loaded, with the hash that was recorded.

use super::ReplayError;
use crate::inference::{Engine, Fold, ResumeError, Served, ServedEndpoint, load_zoo};
use crate::store::StoredSnapshot;
use crate::store::history::LoggedVersion;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use tidegate_models::Zoo;
use tidegate_protocol::EndpointName;

/// Why a reading's prediction cannot be run again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unknown {
    /// It lies before the first state that is kept.
    BeforeSnapshot,
    /// It names a version that was never recorded, by this row id.
    NotRecorded(i64),
    /// The version that answered is not among the models.
    Gone(String),
    /// A version of that name is there, with other files.
    OtherHash(String),
    /// Its arithmetic is not part of this build.
    Numerics(u32),
    /// A stored state does not fit the version.
    Layout(String),
    /// A switch or reset whose state is not stored.
    NoState,
}

impl Unknown {
    /// Whether it is what retention leaves, and nothing that is missing here.
    pub fn is_expected(&self) -> bool {
        matches!(self, Self::BeforeSnapshot)
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BeforeSnapshot => write!(f, "before the first kept snapshot"),
            Self::NotRecorded(id) => {
                write!(f, "names version row {id}, which is not recorded")
            }
            Self::Gone(version) => write!(f, "version {version} is not among the models"),
            Self::OtherHash(version) => write!(
                f,
                "version {version} is not the one that was recorded: its files have another hash"
            ),
            Self::Numerics(rev) => {
                write!(f, "numerics revision {rev} is not part of this build")
            }
            Self::Layout(version) => {
                write!(f, "a stored state does not fit version {version}")
            }
            Self::NoState => write!(f, "a switch or reset without its stored state"),
        }
    }
}

/// The versions of one endpoint, by the row ids under which they were recorded.
pub struct Versions {
    engine: Engine,
    endpoint: EndpointName,
    refused: HashMap<i64, Unknown>,
    names: HashMap<i64, String>,
}

impl Versions {
    /// Loads the models in `dir` (none: the built-in ones) and holds them against what was recorded.
    ///
    /// # Errors
    /// Models that cannot be loaded.
    pub fn load(
        dir: Option<&Path>,
        endpoint: &EndpointName,
        recorded: &[LoggedVersion],
    ) -> Result<Self, ReplayError> {
        Ok(Self::of(&load_zoo(dir)?, endpoint, recorded))
    }

    /// The versions of a loaded zoo, held against what was recorded.
    pub fn of(zoo: &Zoo, endpoint: &EndpointName, recorded: &[LoggedVersion]) -> Self {
        let of_endpoint = recorded
            .iter()
            .filter(|version| version.endpoint == endpoint.as_str());
        let mut versions = Self {
            engine: Engine::default(),
            endpoint: endpoint.clone(),
            refused: HashMap::new(),
            names: HashMap::new(),
        };
        let loaded = zoo.endpoints.get(endpoint.as_str());
        let mut ids = HashMap::new();
        for row in of_endpoint {
            let name = format!("{}/{}", row.model, row.version);
            match loaded.and_then(|endpoint| endpoint.versions.get(&name)) {
                Some(version) if version.hash.as_slice() == row.hash => {
                    ids.insert(name.clone(), row.id);
                }
                Some(_) => {
                    let refusal = Unknown::OtherHash(name.clone());
                    versions.refused.insert(row.id, refusal);
                }
                None => {
                    let refusal = Unknown::Gone(name.clone());
                    versions.refused.insert(row.id, refusal);
                }
            }
            versions.names.insert(row.id, name);
        }
        if let Some(loaded) = loaded {
            // What was never recorded under this hash gets an id that no row has.
            for (name, unrecorded) in loaded.versions.keys().zip(1..) {
                ids.entry(name.clone()).or_insert(-unrecorded);
            }
            versions.engine.add(endpoint.clone(), loaded, &ids);
        }
        versions
    }

    /// The endpoint, where it is loaded.
    pub fn endpoint(&self) -> Option<&Arc<ServedEndpoint>> {
        self.engine.endpoint(self.endpoint.as_str())
    }

    /// A loaded version by `model/version`.
    ///
    /// # Errors
    /// No such version; what there is instead.
    pub fn by_name(&self, wanted: &str) -> Result<&Arc<Served>, ReplayError> {
        let loaded = self.endpoint().map(|endpoint| &endpoint.versions);
        let found = loaded.and_then(|versions| versions.get(wanted));
        found.ok_or_else(|| {
            let known: Vec<&str> = loaded
                .into_iter()
                .flat_map(|versions| versions.keys().map(String::as_str))
                .collect();
            ReplayError::NoVersion {
                wanted: wanted.to_owned(),
                endpoint: self.endpoint.to_string(),
                known: if known.is_empty() {
                    "none".into()
                } else {
                    known.join(", ")
                },
            }
        })
    }

    /// `model/version` of a row id.
    pub fn name(&self, id: i64) -> String {
        let known = self.names.get(&id).cloned();
        known.unwrap_or_else(|| format!("row {id} (not recorded)"))
    }

    /// Whether a version was recorded under this row id.
    pub fn is_recorded(&self, id: i64) -> bool {
        self.names.contains_key(&id)
    }

    /// The recorded version, if it can run.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn recorded(&self, id: i64) -> Result<&Arc<Served>, Unknown> {
        if let Some(served) = self.engine.by_id(id) {
            return Ok(served);
        }
        let refused = self.refused.get(&id).cloned();
        Err(refused.unwrap_or(Unknown::NotRecorded(id)))
    }

    /// The state that a snapshot holds.
    ///
    /// # Errors
    /// Why it cannot be gone on with.
    pub fn resume(&self, snapshot: &StoredSnapshot) -> Result<Fold, Unknown> {
        let served = self.recorded(snapshot.version_id)?;
        let fold = Fold::resume(
            Arc::clone(served),
            &snapshot.layout,
            snapshot.numerics_rev,
            snapshot.state.clone(),
            snapshot.last_ts,
        );
        fold.map_err(|error| match error {
            ResumeError::Layout { .. } => Unknown::Layout(served.reference.to_string()),
            ResumeError::Numerics(rev) => Unknown::Numerics(rev),
        })
    }
}
