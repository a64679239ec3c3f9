//! Which versions can run, and the running of one step.
//!
//! Owns the [`Engine`] (endpoints with their loaded versions, immutable while the server runs) and the [`Fold`] (one
//! stream's model state). Promises that a step that panics or answers with a non-finite number leaves the state as it was.
//! Where a step runs is decided here: every version's cost is measured at warm-up, and steps run inline, where the
//! reading is.

mod fold;

pub use fold::{Fold, ResumeError, quiet_steps};

use crate::stream::VersionRef;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_models::{EndpointManifest, LoadError, Version, Zoo};
use tidegate_protocol::EndpointName;
use tidegate_protocol::message::FeatureInfo;

/// Steps of the warm-up, whose median is a version's cost.
const WARM_UP_STEPS: usize = 101;

/// A version that can run, as the store knows it.
#[derive(Debug)]
pub struct Served {
    /// The loaded version.
    pub version: Arc<Version>,
    /// Its row in the store.
    pub reference: Arc<VersionRef>,
    /// Names and lengths of its state's buffers, stored with snapshots.
    pub layout: Arc<str>,
    /// Median time of one step, measured at start.
    pub cost: Duration,
}

/// An endpoint that can be asked.
#[derive(Debug)]
pub struct ServedEndpoint {
    /// Its name.
    pub name: EndpointName,
    /// Its schema.
    pub manifest: EndpointManifest,
    /// Names and units of its features, as a welcome tells them.
    pub features: Vec<FeatureInfo>,
    /// Versions by `model/version`.
    pub versions: BTreeMap<String, Arc<Served>>,
    /// Who serves a new stream.
    pub default: Arc<Served>,
}

/// Every endpoint with its versions.
#[derive(Debug, Default)]
pub struct Engine {
    endpoints: HashMap<EndpointName, Arc<ServedEndpoint>>,
    by_id: HashMap<i64, Arc<Served>>,
}

impl Engine {
    /// The endpoint of that name.
    pub fn endpoint(&self, name: &str) -> Option<&Arc<ServedEndpoint>> {
        self.endpoints.get(name)
    }

    /// All endpoints by name.
    pub fn endpoints(&self) -> Vec<&Arc<ServedEndpoint>> {
        let mut all: Vec<_> = self.endpoints.values().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Readings that the hungriest version of all is calibrated on.
    pub fn longest_calibration(&self) -> u32 {
        let versions = self.by_id.values();
        versions
            .map(|served| served.version.manifest.calibration)
            .max()
            .unwrap_or(0)
    }

    /// The version of a row id, if it is loaded.
    pub fn by_id(&self, id: i64) -> Option<&Arc<Served>> {
        self.by_id.get(&id)
    }

    /// Adds an endpoint whose versions the store knows by `ids` (`model/version` -> row id).
    pub fn add(
        &mut self,
        name: EndpointName,
        endpoint: &tidegate_models::Endpoint,
        ids: &HashMap<String, i64>,
    ) {
        let versions: BTreeMap<_, _> = endpoint
            .versions
            .iter()
            .map(|(id, version)| {
                (
                    id.clone(),
                    Arc::new(Served::new(
                        &name,
                        version,
                        ids[id],
                        endpoint.manifest.features.len(),
                    )),
                )
            })
            .collect();
        let default = Arc::clone(&versions[&endpoint.manifest.default]);
        self.by_id.extend(
            versions
                .values()
                .map(|served| (served.reference.id, Arc::clone(served))),
        );
        let features = endpoint.manifest.features.iter();
        let served = ServedEndpoint {
            name: name.clone(),
            features: features
                .map(|f| FeatureInfo {
                    name: f.name.clone(),
                    unit: f.unit.clone(),
                })
                .collect(),
            manifest: endpoint.manifest.clone(),
            versions,
            default,
        };
        self.endpoints.insert(name, Arc::new(served));
    }
}

impl Served {
    fn new(endpoint: &EndpointName, version: &Arc<Version>, id: i64, features: usize) -> Self {
        Self {
            reference: Arc::new(VersionRef {
                id,
                endpoint: endpoint.clone(),
                model: version.name().to_owned(),
                version: version.version().to_owned(),
            }),
            layout: version.layout().describe().into(),
            cost: measure(version, features),
            version: Arc::clone(version),
        }
    }
}

/// The median time of a step on a new state.
fn measure(version: &Version, features: usize) -> Duration {
    let mut state = version.new_state();
    let values = vec![1.0; features];
    let mut times: Vec<_> = (0..WARM_UP_STEPS)
        .map(|_| {
            let start = Instant::now();
            std::hint::black_box(version.step(&mut state, &values, 1.0));
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[WARM_UP_STEPS / 2]
}

/// The zoo in `dir`, or the one built into the binary.
///
/// # Errors
/// The first mistake in it, with file, field and reason.
pub fn load_zoo(dir: Option<&std::path::Path>) -> Result<Zoo, LoadError> {
    match dir {
        Some(dir) => Zoo::load(dir),
        None => Zoo::embedded(),
    }
}
