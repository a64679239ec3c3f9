//! Every version that was found, loaded or not, and the loading.
//!
//! A version is read, checked against its golden run, held against the hash that the store recorded, and warmed up; what goes wrong stays
//! with it as text. Whatever was loaded once is kept: a folder that changes or goes away meanwhile adds a mistake to its version and
//! takes nothing from it. Loading runs on a thread of its own, not where sockets are served.

use super::folder::{Look, Source, Stamp};
use crate::inference::Served;
use crate::store::{Store, StoreError};
use std::collections::BTreeMap;
use std::sync::Arc;
use tidegate_models::load::{Files, LoadError, hash_folder};
use tidegate_models::{EndpointManifest, Version, Zoo, shelf as models};
use tidegate_protocol::EndpointName;

/// An endpoint with everything that was found under it.
#[derive(Debug, Clone)]
pub struct Shelved {
    /// Its name.
    pub name: EndpointName,
    /// Its schema.
    pub manifest: EndpointManifest,
    /// What is wrong with its newest `endpoint.toml`; the one before is in force.
    pub mistake: Option<String>,
    /// By `model/version`.
    pub versions: BTreeMap<String, Item>,
    stamp: Stamp,
}

/// A version that was found.
#[derive(Debug, Clone, Default)]
pub struct Item {
    /// Ready to run; `None`: it could not be loaded.
    pub served: Option<Arc<Served>>,
    /// Of its files as they were read last.
    pub hash: Option<[u8; 32]>,
    /// Why it is not ready, or what is wrong with its folder since.
    pub mistakes: Vec<String>,
    /// Its `model.toml`.
    pub manifest: Arc<str>,
    /// Name and bytes of its files.
    pub files: Vec<(String, u64)>,
    /// Its folder is not whole yet, or was not when it was looked at: nothing of it was read.
    pub is_unsettled: bool,
    stamp: Stamp,
}

/// What one reading of the folder came to.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Versions that became ready, `endpoint/model/version`.
    pub loaded: Vec<String>,
    /// New mistakes: where, and what.
    pub mistakes: Vec<(String, String)>,
    /// Something is still being written: look again.
    pub unsettled: Vec<String>,
    /// Whether anything is known otherwise than before.
    pub changed: bool,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Shelf {
    /// By name.
    pub endpoints: BTreeMap<String, Shelved>,
    /// Endpoints that could not be read at all: name and mistake.
    pub broken: BTreeMap<String, String>,
}

/// What is needed to load.
pub struct Loader<'a> {
    /// Where from.
    pub source: &'a Arc<Source>,
    /// Where names keep their hashes.
    pub store: &'a dyn Store,
}

impl Shelf {
    /// Takes over a zoo that is loaded already.
    ///
    /// # Errors
    /// A store that cannot be used.
    pub async fn given(zoo: &Zoo, loader: &Loader<'_>) -> Result<Self, StoreError> {
        let mut shelf = Self::default();
        for (name, endpoint) in &zoo.endpoints {
            let manifest = endpoint.manifest.clone();
            let Some(mut shelved) = loader.shelve(name, manifest, Stamp::new()).await? else {
                continue;
            };
            for (id, version) in &endpoint.versions {
                let item = loader.admit(&shelved, Arc::clone(version)).await?;
                shelved.versions.insert(id.clone(), item);
            }
            shelf.endpoints.insert(name.clone(), shelved);
        }
        Ok(shelf)
    }

    /// Reads what is new or changed in `now` and looked the same in `earlier`; the rest waits for another look.
    ///
    /// # Errors
    /// A store that cannot be used: what was read so far is forgotten by the caller.
    pub async fn take(
        &mut self,
        loader: &Loader<'_>,
        now: &Look,
        earlier: &Look,
    ) -> Result<Report, StoreError> {
        let mut report = Report::default();
        for (name, (own, versions)) in &now.endpoints {
            self.take_endpoint(
                loader,
                name,
                own,
                now.is_endpoint_still(earlier, name),
                &mut report,
            )
            .await?;
            let Some(shelved) = self.endpoints.get_mut(name) else {
                continue;
            };
            for (id, stamp) in versions {
                let is_still = now.is_still(earlier, name, id);
                shelved
                    .take_version(loader, id, stamp, is_still, &mut report)
                    .await?;
            }
            shelved.miss(versions, &mut report);
        }
        let broken = self.broken.len();
        self.broken
            .retain(|name, _| now.endpoints.contains_key(name));
        report.changed |= self.broken.len() < broken;
        for (name, shelved) in &mut self.endpoints {
            if !now.endpoints.contains_key(name) {
                shelved.miss(&BTreeMap::new(), &mut report);
            }
        }
        Ok(report)
    }

    async fn take_endpoint(
        &mut self,
        loader: &Loader<'_>,
        name: &str,
        own: &Stamp,
        is_still: bool,
        report: &mut Report,
    ) -> Result<(), StoreError> {
        let known = self.endpoints.get(name);
        if known.is_some_and(|known| known.stamp == *own) {
            return Ok(());
        }
        // A folder without a manifest is none yet.
        if !is_still || own.is_empty() {
            report.unsettled.push(name.to_owned());
            return Ok(());
        }
        let read = loader
            .source
            .endpoint(name)
            .and_then(|files| models::read_endpoint(name, &files));
        let mistake = match (read, self.endpoints.get_mut(name)) {
            (Ok(manifest), Some(known)) => known.renew(manifest, own),
            (Ok(manifest), None) => match loader.shelve(name, manifest, own.clone()).await {
                Ok(Some(shelved)) => {
                    self.broken.remove(name);
                    self.endpoints.insert(name.to_owned(), shelved);
                    None
                }
                Ok(None) => Some(format!("{name}: is no name of an endpoint")),
                Err(StoreError::Changed(mistake)) => Some(mistake),
                Err(error) => return Err(error),
            },
            (Err(mistake), Some(known)) => {
                known.stamp.clone_from(own);
                Some(mistake.to_string())
            }
            (Err(mistake), None) => Some(mistake.to_string()),
        };
        match self.endpoints.get_mut(name) {
            Some(known) => known.mistake.clone_from(&mistake),
            None => {
                let mistake = mistake.clone().unwrap_or_default();
                if self.broken.insert(name.to_owned(), mistake.clone()) == Some(mistake) {
                    return Ok(());
                }
            }
        }
        report.changed = true;
        report
            .mistakes
            .extend(mistake.map(|mistake| (format!("{name}/endpoint.toml"), mistake)));
        Ok(())
    }
}

impl Shelved {
    /// A version that is ready, by its row id.
    pub fn ready(&self, id: i64) -> Option<Arc<Served>> {
        let mut ready = self.versions.values().filter(|v| v.mistakes.is_empty());
        ready.find_map(|item| item.served.clone().filter(|s| s.reference.id == id))
    }

    /// Versions that cannot serve, with their mistakes.
    pub fn unready(&self) -> BTreeMap<String, String> {
        let unready = self.versions.iter().filter(|(_, v)| v.served.is_none());
        unready
            .map(|(id, item)| (id.clone(), item.mistakes.join("; ")))
            .collect()
    }

    /// Another `endpoint.toml` for an endpoint that serves: its words and its default are taken, its schema is not.
    fn renew(&mut self, manifest: EndpointManifest, stamp: &Stamp) -> Option<String> {
        self.stamp.clone_from(stamp);
        if manifest.revision == self.manifest.revision
            && schema(&manifest) == schema(&self.manifest)
        {
            self.manifest = manifest;
            return None;
        }
        Some(format!(
            "{}: its schema or revision changed: that is taken at the next start, revision {} is in force until then",
            manifest.name, self.manifest.revision
        ))
    }

    async fn take_version(
        &mut self,
        loader: &Loader<'_>,
        id: &str,
        stamp: &Stamp,
        is_still: bool,
        report: &mut Report,
    ) -> Result<(), StoreError> {
        let known = self.versions.get(id);
        if known.is_some_and(|known| !known.is_unsettled && known.stamp == *stamp) {
            return Ok(());
        }
        let path = format!("{}/{id}", self.name);
        let has_manifest = stamp.iter().any(|(file, ..)| file == "model.toml");
        if !is_still || (!has_manifest && loader.source.changes()) {
            report.changed |= self.is_written(id, has_manifest);
            report.unsettled.push(path);
            return Ok(());
        }
        let files = match loader.read(self.name.as_str(), id).await {
            Ok(files) => files,
            Err(error) => {
                self.note(id, stamp, vec![error.to_string()], &path, report);
                return Ok(());
            }
        };
        let hash = hash_folder(&files);
        match self.versions.get_mut(id) {
            // Touched, or put back: the very same.
            Some(known) if known.served.is_some() && known.hash == Some(hash) => {
                known.stamp.clone_from(stamp);
                known.mistakes.clear();
                report.changed = true;
            }
            Some(known) if known.served.is_some() => {
                let mistake = format!(
                    "its files changed: it runs with the hash {}, the folder has {}; a version never changes, give the new one a new number",
                    hex(known.hash.as_ref()),
                    hex(Some(&hash))
                );
                self.note(id, stamp, vec![mistake], &path, report);
            }
            _ => {
                let item = loader.load(self, id, files, stamp).await?;
                if item.served.is_some() {
                    report.loaded.push(path);
                } else {
                    let mistakes = item.mistakes.iter();
                    report
                        .mistakes
                        .extend(mistakes.map(|mistake| (path.clone(), mistake.clone())));
                }
                self.versions.insert(id.to_owned(), item);
                report.changed = true;
            }
        }
        Ok(())
    }

    /// Notes that a version is still being written, unless there is more to say of it; whether that is news.
    fn is_written(&mut self, id: &str, has_manifest: bool) -> bool {
        let known = self.versions.get(id);
        if known.is_some_and(|known| !known.is_unsettled) {
            return false;
        }
        let why = match has_manifest {
            true => "its files are still changing: they are read once two looks find the same",
            false => "it has no model.toml yet: its files are read when that is there",
        };
        if known.is_some_and(|known| known.mistakes == [why]) {
            return false;
        }
        let item = Item {
            is_unsettled: true,
            mistakes: vec![why.to_owned()],
            ..Item::default()
        };
        self.versions.insert(id.to_owned(), item);
        true
    }

    /// Adds mistakes to a version that goes on as it is.
    fn note(
        &mut self,
        id: &str,
        stamp: &Stamp,
        mistakes: Vec<String>,
        path: &str,
        report: &mut Report,
    ) {
        let told = mistakes.iter();
        report.changed = true;
        report
            .mistakes
            .extend(told.map(|mistake| (path.to_owned(), mistake.clone())));
        let item = self.versions.entry(id.to_owned()).or_default();
        item.stamp.clone_from(stamp);
        item.is_unsettled = false;
        item.mistakes = mistakes;
    }

    /// Versions that are not among those found now.
    fn miss(&mut self, found: &BTreeMap<String, Stamp>, report: &mut Report) {
        let known = self.versions.len();
        self.versions
            .retain(|id, item| found.contains_key(id) || item.served.is_some());
        report.changed |= self.versions.len() < known;
        for (id, item) in &mut self.versions {
            // An empty stamp: it was missed before, or never lay in a folder.
            if !found.contains_key(id) && !item.stamp.is_empty() {
                let mistake = "its folder is gone: it stays until the server stops".to_owned();
                let path = format!("{}/{id}", self.name);
                report.mistakes.push((path, mistake.clone()));
                report.changed = true;
                item.stamp.clear();
                item.mistakes = vec![mistake];
            }
        }
    }
}

impl Loader<'_> {
    /// An endpoint whose schema is the one that was recorded under its revision; `None` for a name that is none.
    async fn shelve(
        &self,
        name: &str,
        manifest: EndpointManifest,
        stamp: Stamp,
    ) -> Result<Option<Shelved>, StoreError> {
        let Ok(endpoint) = EndpointName::new(name) else {
            return Ok(None);
        };
        let schema = schema(&manifest);
        let recorded = self
            .store
            .register_endpoint(&endpoint, manifest.revision, &schema)
            .await?;
        // Databases of earlier builds have another text there, which tells no less but cannot be compared.
        if recorded != schema && recorded.starts_with('{') {
            return Err(StoreError::Changed(format!(
                "endpoint {name}: its schema is not what this database recorded as revision {}: give the changed one the revision {}",
                manifest.revision,
                manifest.revision + 1
            )));
        }
        Ok(Some(Shelved {
            name: endpoint,
            manifest,
            mistake: None,
            versions: BTreeMap::new(),
            stamp,
        }))
    }

    async fn read(&self, name: &str, id: &str) -> Result<Files, LoadError> {
        let (source, name, id) = (Arc::clone(self.source), name.to_owned(), id.to_owned());
        aside(move || source.version(&name, &id)).await
    }

    /// A version from its files: ready, or with every mistake.
    async fn load(
        &self,
        endpoint: &Shelved,
        id: &str,
        files: Files,
        stamp: &Stamp,
    ) -> Result<Item, StoreError> {
        let path = format!("{}/{id}", endpoint.name);
        let manifest = endpoint.manifest.clone();
        let mut item = Item {
            hash: Some(hash_folder(&files)),
            manifest: text(&files, "model.toml"),
            files: sizes(&files),
            stamp: stamp.clone(),
            ..Item::default()
        };
        match aside(move || models::examine(&manifest, &path, &files)).await {
            Ok(version) => {
                let admitted = self.admit(endpoint, Arc::new(version)).await?;
                item.served = admitted.served;
                item.mistakes = admitted.mistakes;
            }
            Err(mistakes) => item.mistakes = mistakes.iter().map(ToString::to_string).collect(),
        }
        Ok(item)
    }

    /// A loaded version that the store knows by this very hash, warmed up.
    async fn admit(&self, endpoint: &Shelved, version: Arc<Version>) -> Result<Item, StoreError> {
        let mut item = Item {
            hash: Some(version.hash),
            ..Item::default()
        };
        let (name, hash) = (&endpoint.name, &version.hash);
        let row = self
            .store
            .register_version(name, version.name(), version.version(), hash)
            .await;
        let row = match row {
            Ok(row) => row,
            Err(StoreError::Changed(mistake)) => {
                item.mistakes.push(mistake);
                return Ok(item);
            }
            Err(error) => return Err(error),
        };
        let (name, features) = (name.clone(), endpoint.manifest.features.clone());
        match aside(move || Served::warm_up(&name, &version, row, &features)).await {
            Ok(served) => {
                if let Some(warning) = served.warning() {
                    tracing::warn!(endpoint = %endpoint.name, version = %served.reference, "{warning}");
                }
                item.served = Some(Arc::new(served));
            }
            Err(mistake) => item.mistakes.push(mistake),
        }
        Ok(item)
    }
}

/// Runs what computes for long away from the threads that serve sockets; a panic in it goes on here.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

/// What a revision fixes: the task, and the features in their order.
fn schema(manifest: &EndpointManifest) -> String {
    let features = manifest.features.iter().map(|feature| {
        serde_json::json!({"name": feature.name, "unit": feature.unit, "range": feature.range, "hard_range": feature.hard_range})
    });
    serde_json::json!({"task": manifest.task.as_str(), "features": features.collect::<Vec<_>>()})
        .to_string()
}

fn text(files: &Files, name: &str) -> Arc<str> {
    let bytes = files.get(name).map(|bytes| String::from_utf8_lossy(bytes));
    bytes.unwrap_or_default().into()
}

fn sizes(files: &Files) -> Vec<(String, u64)> {
    let sizes = files.iter();
    sizes
        .map(|(name, bytes)| (name.clone(), bytes.len() as u64))
        .collect()
}

fn hex(hash: Option<&[u8; 32]>) -> String {
    let bytes = hash.into_iter().flatten();
    bytes.map(|byte| format!("{byte:02x}")).collect()
}
