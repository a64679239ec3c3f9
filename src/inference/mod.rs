//! Which versions can run, and the running of one step.
//!
//! Owns the [`Engine`] (endpoints with their loaded versions, an immutable picture), the [`Engines`] that hold the newest of them while the
//! server runs, and the [`Fold`] (one stream's model state). Promises that a step that panics or answers with a non-finite number leaves
//! the state as it was. Where a step runs is decided here: every version's cost is measured at warm-up; cheap steps run where the
//! reading is, dear ones take [`Turns`].

mod engines;
mod fold;
mod turns;

pub use engines::{Engines, Picture};
pub use fold::{Fold, ResumeError, quiet_steps};
pub use turns::{Line, Turn, Turns};

use crate::stream::VersionRef;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_models::{EndpointManifest, Feature, LoadError, Version, Zoo, golden, load, shelf};
use tidegate_protocol::message::FeatureInfo;
use tidegate_protocol::{EndpointName, Output};

/// Steps of the warm-up, whose median is a version's cost.
const WARM_UP_STEPS: usize = 101;
/// Most readings folded before them, so that what is measured is a step behind the calibration.
const WARM_UP_CALIBRATION: u32 = 1_000;
/// Longest warm-up; a dear version is measured by fewer steps.
const WARM_UP: Duration = Duration::from_secs(2);
/// A step above this is told as a warning: a hundred readings a second take a core.
const TOO_DEAR: Duration = Duration::from_millis(10);
/// Starts the generator of the warm-up's readings.
const WARM_UP_SEED: u64 = 7;

/// A version that can run, as the store knows it.
#[derive(Debug)]
pub struct Served {
    /// The loaded version.
    pub version: Arc<Version>,
    /// Its row in the store.
    pub reference: Arc<VersionRef>,
    /// Names and lengths of its state's buffers, stored with snapshots.
    pub layout: Arc<str>,
    /// Median time of one step, measured when it was loaded.
    pub cost: Duration,
    /// Where its streams wait to step, if its steps are dear.
    pub line: Line,
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
    /// Who serves every stream that is not pinned.
    pub production: Arc<Served>,
    /// The newest candidate.
    pub staging: Option<Arc<Served>>,
    /// Who was in production before and is ready, newest first: where streams go whose production version keeps failing.
    pub before: Vec<Arc<Served>>,
    /// Versions that are there and cannot be asked, with their mistakes.
    pub unready: BTreeMap<String, String>,
}

/// Why an endpoint has no version of a name to be asked; one line for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoVersion {
    /// There is none.
    #[error("{endpoint} has no version {version:?}: it has {known}")]
    Unknown {
        /// The endpoint.
        endpoint: EndpointName,
        /// What was asked for.
        version: String,
        /// What there is.
        known: String,
    },
    /// It is there, and could not be loaded.
    #[error("{endpoint}: version {version} is not ready: {mistakes}")]
    NotReady {
        /// The endpoint.
        endpoint: EndpointName,
        /// `model/version`.
        version: String,
        /// Why.
        mistakes: String,
    },
}

impl ServedEndpoint {
    /// An endpoint with its versions, of which `production` serves.
    pub fn new(
        name: EndpointName,
        manifest: EndpointManifest,
        versions: BTreeMap<String, Arc<Served>>,
        production: Arc<Served>,
    ) -> Self {
        let features = manifest.features.iter().map(|feature| FeatureInfo {
            name: feature.name.clone(),
            unit: feature.unit.clone(),
        });
        Self {
            name,
            features: features.collect(),
            manifest,
            versions,
            production,
            staging: None,
            before: Vec::new(),
            unready: BTreeMap::new(),
        }
    }

    /// The version of that name (`model/version`).
    ///
    /// # Errors
    /// See [`NoVersion`].
    pub fn version(&self, name: &str) -> Result<&Arc<Served>, NoVersion> {
        if let Some(served) = self.versions.get(name) {
            return Ok(served);
        }
        let endpoint = self.name.clone();
        let version: String = name.chars().take(128).collect();
        Err(match self.unready.get(name).cloned() {
            Some(mistakes) => NoVersion::NotReady {
                endpoint,
                version,
                mistakes,
            },
            None => NoVersion::Unknown {
                endpoint,
                version,
                known: join(self.versions.keys()),
            },
        })
    }
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

    /// Adds an endpoint, or puts it in the place of an older picture of it.
    pub fn insert(&mut self, endpoint: ServedEndpoint) {
        let versions = endpoint.versions.values();
        self.by_id
            .extend(versions.map(|served| (served.reference.id, Arc::clone(served))));
        self.endpoints
            .insert(endpoint.name.clone(), Arc::new(endpoint));
    }

    /// Adds a loaded endpoint under its default version, or its first one where that is missing; `ids` are the row ids of its versions (`model/version`).
    pub fn add(
        &mut self,
        name: EndpointName,
        endpoint: &tidegate_models::Endpoint,
        ids: &HashMap<String, i64>,
    ) {
        let served = endpoint.versions.iter().map(|(id, version)| {
            let served = Served::new(&name, version, ids[id], Duration::ZERO);
            (id.clone(), Arc::new(served))
        });
        let versions: BTreeMap<_, _> = served.collect();
        let default = versions.get(&endpoint.manifest.default);
        let Some(production) = default.or(versions.values().next()).cloned() else {
            return;
        };
        let manifest = endpoint.manifest.clone();
        self.insert(ServedEndpoint::new(name, manifest, versions, production));
    }
}

impl Served {
    fn new(endpoint: &EndpointName, version: &Arc<Version>, id: i64, cost: Duration) -> Self {
        Self {
            reference: Arc::new(VersionRef {
                id,
                endpoint: endpoint.clone(),
                model: version.name().to_owned(),
                version: version.version().to_owned(),
            }),
            layout: version.layout().describe().into(),
            cost,
            line: Line::default(),
            version: Arc::clone(version),
        }
    }

    /// The cost of a step in microseconds, for people: as many digits as the measurement is worth.
    pub fn step_us(&self) -> f64 {
        let us = self.cost.as_secs_f64() * 1e6;
        let digits = if us < 1.0 { 100.0 } else { 10.0 };
        (us * digits).round() / digits
    }

    /// What whoever puts this version into production should know first: one line, where there is something.
    pub fn warning(&self) -> Option<String> {
        (self.cost > TOO_DEAR).then(|| {
            let ms = self.cost.as_secs_f64() * 1e3;
            let a_second = 1.0 / self.cost.as_secs_f64();
            format!("a step costs {ms:.1} ms: a core takes {a_second:.0} readings/s of all its streams together, and a stream that is moved to it folds its old readings at that speed")
        })
    }

    /// What an answer is made of, its numbers all 0; `None` where the endpoint's task alone says it.
    pub fn template(&self) -> Option<Output> {
        self.version.model.template().map(fold::to_wire)
    }

    /// A loaded version, recorded under row `id`, that has taken plausible readings and was timed meanwhile. Costs up to two seconds.
    ///
    /// # Errors
    /// A step that failed; the text is for people.
    pub fn warm_up(
        endpoint: &EndpointName,
        version: &Arc<Version>,
        id: i64,
        features: &[Feature],
    ) -> Result<Self, String> {
        let cold = Arc::new(Self::new(endpoint, version, id, Duration::ZERO));
        let before = version.manifest.calibration.min(WARM_UP_CALIBRATION) as usize;
        let count = before + WARM_UP_STEPS;
        let readings = golden::generate(features, WARM_UP_SEED, count as u32);
        let mut fold = Fold::new(cold);
        let (begun, mut times) = (Instant::now(), Vec::with_capacity(count));
        for (index, values) in readings.iter().enumerate() {
            let start = Instant::now();
            let output = fold.step(values, index as i64 * 1_000);
            times.push(start.elapsed());
            if let Output::Failed(reason) = output {
                return Err(format!("warm-up: reading {index}: {reason}"));
            }
            if begun.elapsed() > WARM_UP {
                break;
            }
        }
        let behind = times.split_off(before.min(times.len() / 2));
        Ok(Self::new(endpoint, version, id, median(behind)))
    }
}

fn join<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// What loads of the zoo in `dir`, or of the one built into the binary, for a log that is read. A version with a mistake is told and left out.
///
/// # Errors
/// A folder that cannot be read.
pub fn load_zoo(dir: Option<&std::path::Path>) -> Result<Zoo, LoadError> {
    let files = match dir {
        Some(dir) => load::read_folder(dir)?,
        None => load::embedded(),
    };
    let (zoo, mistakes) = shelf::survey(&files);
    for mistake in mistakes {
        tracing::warn!(%mistake, "left out");
    }
    Ok(zoo)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(cost: Duration) -> Served {
        let zoo = Zoo::embedded().unwrap();
        let version = &zoo.endpoints["pump-health"].versions["mewma/1.0.0"];
        Served::new(&"pump-health".parse().unwrap(), version, 1, cost)
    }

    #[test]
    fn a_cost_is_told_in_as_many_digits_as_were_measured() {
        let told = |ns| served(Duration::from_nanos(ns)).step_us().to_string();
        assert_eq!(
            [123, 701, 1_240, 85_149].map(told),
            ["0.12", "0.7", "1.2", "85.1"]
        );
    }

    #[test]
    fn a_step_above_ten_milliseconds_is_a_warning() {
        assert_eq!(served(Duration::from_millis(10)).warning(), None);
        let warning = served(Duration::from_millis(20)).warning().unwrap();
        assert!(warning.contains("20.0 ms"), "{warning}");
        assert!(warning.contains("50 readings/s"), "{warning}");
    }

    #[test]
    fn a_version_that_is_not_ready_is_told_from_one_that_is_not_there() {
        let zoo = Zoo::embedded().unwrap();
        let manifest = zoo.endpoints["pump-health"].manifest.clone();
        let production = Arc::new(served(Duration::ZERO));
        let versions = BTreeMap::from([("mewma/1.0.0".to_owned(), Arc::clone(&production))]);
        let name = "pump-health".parse().unwrap();
        let mut endpoint = ServedEndpoint::new(name, manifest, versions, production);
        endpoint.unready.insert("m/1.0.0".into(), "why".into());
        assert!(endpoint.version("mewma/1.0.0").is_ok());
        let said = |name| endpoint.version(name).unwrap_err().to_string();
        let expected = "pump-health: version m/1.0.0 is not ready: why";
        assert_eq!(said("m/1.0.0"), expected);
        let expected = "pump-health has no version \"m/2.0.0\": it has mewma/1.0.0";
        assert_eq!(said("m/2.0.0"), expected);
    }
}
