//! Which versions are there, what they are to their endpoint, and the changes of both while the server runs.
//!
//! Owns the `Shelf` (what was found and loaded), the rows of status behind it (`status`), and the making of every next engine. One
//! change at a time: a promotion commits its rows, then the engine is replaced, then streams follow it (`pipeline`). Promises that a
//! version that is not ready serves nobody, that whatever was loaded goes on when a later load fails, and that an endpoint has one
//! production version at any time.

pub mod catalogue;
mod folder;
mod shelf;
mod status;
mod watch;

pub use catalogue::{Catalogue, Entry, Listed};
pub use folder::Source;
pub use shelf::{Item, Report};
pub use status::Asked;
pub use watch::watch;

use crate::inference::{Engine, Engines, Served, ServedEndpoint};
use crate::store::{StatusRow, Store, StoreError};
use crate::stream::Status;
use folder::Look;
use parking_lot::RwLock;
use shelf::{Loader, Shelf, Shelved};
use status::{Standing, change};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tidegate_models::Zoo;
use tidegate_models::load::LoadError;
use tokio::sync::Mutex;

/// Between the two looks of a reading that somebody asked for.
const SETTLE: Duration = Duration::from_millis(200);

/// Why a server has no models to serve; one line for people.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder.
    #[error("models: {0}")]
    Folder(#[from] LoadError),
    /// An endpoint, or the version that serves it.
    #[error("models: {0}")]
    Needed(String),
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// No such endpoint.
    #[error("no endpoint {0:?}")]
    UnknownEndpoint(String),
    /// No such version under it.
    #[error("{endpoint} has no version {version:?}: it has {known}")]
    UnknownVersion {
        /// The endpoint.
        endpoint: String,
        /// What was asked for.
        version: String,
        /// What there is.
        known: String,
    },
    /// It cannot serve.
    #[error("{version} is not ready: {mistakes}")]
    NotReady {
        /// `model/version`.
        version: String,
        /// Why.
        mistakes: String,
    },
    /// Its folder is not whole, or was not when it was looked at.
    #[error("{version} is not ready: {why}")]
    Unsettled {
        /// `model/version`.
        version: String,
        /// What is missing.
        why: String,
    },
    /// There is one way into production.
    #[error("{0} comes into production by being promoted: promote it")]
    ByPromotion(String),
    /// It serves: another version has to be promoted first.
    #[error("{0} is in production: promote another version first")]
    InProduction(String),
    /// Nothing was in production before.
    #[error("{0} has nothing to go back to: no other version was in production before")]
    NothingBefore(String),
    /// The folder cannot be read.
    #[error("models: {0}")]
    Folder(#[from] LoadError),
    /// The change is not stored, or is not known to be.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a change came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The endpoint.
    pub endpoint: String,
    /// `model/version`.
    pub version: String,
    /// What it is now.
    pub status: Status,
    /// The version that served before, where another one serves now.
    pub replaced: Option<String>,
}

/// See the module.
pub struct Registry {
    source: Arc<Source>,
    store: Arc<dyn Store>,
    engines: Arc<Engines>,
    /// One change at a time.
    books: Mutex<Books>,
    shown: RwLock<Arc<Catalogue>>,
}

#[derive(Default)]
struct Books {
    shelf: Shelf,
    rows: Vec<StatusRow>,
    looked: Look,
    /// Whether everything in the newest look was read.
    settled: bool,
}

impl Registry {
    /// Loads everything in `dir`, or what is built in. A version with a mistake is told and left out, unless it is the one that serves its
    /// endpoint.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(dir: Option<&Path>, store: Arc<dyn Store>) -> Result<Self, OpenError> {
        let source = Arc::new(Source::of(dir));
        let looked = source.look()?;
        let mut shelf = Shelf::default();
        let loader = Loader {
            source: &source,
            store: store.as_ref(),
        };
        let report = shelf.take(&loader, &looked, &looked).await?;
        if let Some(mistake) = shelf.broken.values().next() {
            return Err(OpenError::Needed(mistake.clone()));
        }
        for path in &report.unsettled {
            tracing::warn!(path, "left out: it has no manifest yet");
        }
        tell(&report);
        Self::with(source, store, shelf, looked).await
    }

    /// Serves a zoo that is loaded already.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn given(zoo: &Zoo, store: Arc<dyn Store>) -> Result<Self, OpenError> {
        let source = Arc::new(Source::Fixed(tidegate_models::load::Files::new()));
        let loader = Loader {
            source: &source,
            store: store.as_ref(),
        };
        let shelf = Shelf::given(zoo, &loader).await?;
        Self::with(source, store, shelf, Look::default()).await
    }

    async fn with(
        source: Arc<Source>,
        store: Arc<dyn Store>,
        shelf: Shelf,
        looked: Look,
    ) -> Result<Self, OpenError> {
        let rows = store.status_changes().await?;
        let books = Books {
            shelf,
            rows,
            looked,
            settled: false,
        };
        let none = Engine::default();
        let (engine, missing) = books.engine(&none);
        if let Some(mistake) = missing.into_iter().next() {
            return Err(OpenError::Needed(mistake));
        }
        if engine.endpoints().is_empty() {
            let mistake = "the folder holds no endpoint: expected <endpoint>/endpoint.toml";
            return Err(OpenError::Needed(mistake.into()));
        }
        let engines = Arc::new(Engines::new(engine));
        let catalogue = books.catalogue(&engines.load());
        catalogue.measure();
        Ok(Self {
            source,
            store,
            engines,
            books: Mutex::new(books),
            shown: RwLock::new(Arc::new(catalogue)),
        })
    }

    /// The engines that it makes.
    pub fn engines(&self) -> &Arc<Engines> {
        &self.engines
    }

    /// Everything that is there, as it was after the newest change.
    pub fn catalogue(&self) -> Arc<Catalogue> {
        Arc::clone(&self.shown.read())
    }

    /// Reads the folder now: what changed is looked at twice, a moment apart. Nothing happens with the built-in models.
    ///
    /// # Errors
    /// A folder or a store that cannot be read; everything goes on as it was.
    pub async fn reload(&self) -> Result<Report, ChangeError> {
        let mut books = self.books.lock().await;
        let first = self.look().await?;
        if first != books.looked {
            tokio::time::sleep(SETTLE).await;
        }
        let second = self.look().await?;
        self.take(&mut books, first, second).await
    }

    /// Reads what changed in the folder and has not changed since the look before; for the task that looks every now and then.
    async fn notice(&self) -> Result<Report, ChangeError> {
        let mut books = self.books.lock().await;
        let now = self.look().await?;
        let earlier = books.looked.clone();
        self.take(&mut books, earlier, now).await
    }

    async fn look(&self) -> Result<Look, ChangeError> {
        let source = Arc::clone(&self.source);
        let looked = tokio::task::spawn_blocking(move || source.look()).await;
        Ok(looked.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()))?)
    }

    async fn take(
        &self,
        books: &mut Books,
        earlier: Look,
        now: Look,
    ) -> Result<Report, ChangeError> {
        if !self.source.changes() || (books.settled && now == earlier && now == books.looked) {
            return Ok(Report::default());
        }
        let loader = Loader {
            source: &self.source,
            store: self.store.as_ref(),
        };
        let mut shelf = books.shelf.clone();
        let report = shelf.take(&loader, &now, &earlier).await?;
        books.shelf = shelf;
        books.looked = now;
        books.settled = report.unsettled.is_empty();
        tell(&report);
        if report.changed {
            self.publish(books);
        }
        Ok(report)
    }

    /// Makes a version serve every stream of its endpoint that is not pinned. Returns when that is stored and new streams get it; those in
    /// memory follow.
    ///
    /// # Errors
    /// See [`ChangeError`]; nothing was changed.
    pub async fn promote(
        &self,
        endpoint: &str,
        version: &str,
        asked: &Asked,
    ) -> Result<Changed, ChangeError> {
        let mut books = self.books.lock().await;
        self.put(&mut books, endpoint, version, asked, false).await
    }

    /// Puts the version that was in production before back.
    ///
    /// # Errors
    /// See [`ChangeError`]; nothing was changed.
    pub async fn roll_back(&self, endpoint: &str, asked: &Asked) -> Result<Changed, ChangeError> {
        let mut books = self.books.lock().await;
        let shelved = books.endpoint(endpoint)?;
        let before = books.standing(endpoint).before();
        let before = before.and_then(|id| books.name_of(shelved, id));
        let before = before.ok_or_else(|| ChangeError::NothingBefore(endpoint.to_owned()))?;
        self.put(&mut books, endpoint, &before, asked, true).await
    }

    async fn put(
        &self,
        books: &mut Books,
        endpoint: &str,
        version: &str,
        asked: &Asked,
        is_back: bool,
    ) -> Result<Changed, ChangeError> {
        let served = books.ready(endpoint, version)?;
        let engine = self.engines.load();
        let serving = engine.endpoint(endpoint);
        let serving = serving.ok_or_else(|| ChangeError::UnknownEndpoint(endpoint.to_owned()))?;
        let serving = &serving.production.reference;
        let standing = books.standing(endpoint);
        let mut changed = Changed {
            endpoint: endpoint.to_owned(),
            version: version.to_owned(),
            status: Status::Production,
            replaced: None,
        };
        if serving.id == served.reference.id {
            return Ok(changed);
        }
        let replaced = match is_back {
            true => format!("rolled back to {version}"),
            false => format!("replaced by {version}"),
        };
        let rows = standing.promote(served.reference.id, serving.id, asked, &replaced);
        self.store_rows(books, &rows).await?;
        changed.replaced = Some(serving.to_string());
        tracing::info!(endpoint, version, before = %serving, who = asked.who, why = asked.why, "in production");
        Ok(changed)
    }

    /// Moves a version that does not serve to another status.
    ///
    /// # Errors
    /// See [`ChangeError`]; nothing was changed.
    pub async fn set_status(
        &self,
        endpoint: &str,
        version: &str,
        status: Status,
        asked: &Asked,
    ) -> Result<Changed, ChangeError> {
        let mut books = self.books.lock().await;
        if status == Status::Production {
            return Err(ChangeError::ByPromotion(version.to_owned()));
        }
        let id = books.recorded(endpoint, version)?;
        let engine = self.engines.load();
        let serving = engine.endpoint(endpoint).map(|e| &e.production.reference);
        if serving.is_some_and(|serving| serving.id == id) {
            return Err(ChangeError::InProduction(version.to_owned()));
        }
        if status == Status::Staging {
            books.ready(endpoint, version)?;
        }
        if books.standing(endpoint).status(id) != status {
            let row = change(id, status, &asked.who, asked.why.clone());
            self.store_rows(&mut books, &[row]).await?;
            tracing::info!(
                endpoint,
                version,
                status = status.as_str(),
                who = asked.who,
                why = asked.why,
                "status changed"
            );
        }
        Ok(Changed {
            endpoint: endpoint.to_owned(),
            version: version.to_owned(),
            status,
            replaced: None,
        })
    }

    /// Stores rows and puts what follows from them in force. After an error what is stored is what counts.
    async fn store_rows(
        &self,
        books: &mut Books,
        rows: &[crate::store::StatusChange],
    ) -> Result<(), ChangeError> {
        let newest = books.rows.last().map_or(0, |row| row.id);
        let stored = self.store.change_status(newest, rows).await;
        books.rows = self.store.status_changes().await?;
        self.publish(books);
        Ok(stored?)
    }

    /// Puts another engine in place, if it differs, and shows what is there.
    fn publish(&self, books: &Books) {
        let before = self.engines.load();
        let (engine, kept) = books.engine(&before);
        for mistake in kept {
            tracing::error!("{mistake}: the version before goes on");
        }
        self.engines.replace(engine);
        let catalogue = books.catalogue(&self.engines.load());
        catalogue.measure();
        *self.shown.write() = Arc::new(catalogue);
    }
}

impl Books {
    fn endpoint(&self, endpoint: &str) -> Result<&Shelved, ChangeError> {
        let found = self.shelf.endpoints.get(endpoint);
        found.ok_or_else(|| ChangeError::UnknownEndpoint(endpoint.chars().take(64).collect()))
    }

    fn item(&self, endpoint: &str, version: &str) -> Result<&Item, ChangeError> {
        let shelved = self.endpoint(endpoint)?;
        shelved.versions.get(version).ok_or_else(|| {
            let known: Vec<&str> = shelved.versions.keys().map(String::as_str).collect();
            ChangeError::UnknownVersion {
                endpoint: endpoint.to_owned(),
                version: version.chars().take(128).collect(),
                known: known.join(", "),
            }
        })
    }

    /// A version that can serve.
    fn ready(&self, endpoint: &str, version: &str) -> Result<Arc<Served>, ChangeError> {
        let item = self.item(endpoint, version)?;
        let served = item.served.as_ref();
        // With mistakes its folder is another one by now: what would serve after a restart is not what is asked for.
        let ready = served.filter(|_| item.mistakes.is_empty());
        ready.cloned().ok_or_else(|| not_ready(version, item))
    }

    /// The row id of a version that was loaded once.
    fn recorded(&self, endpoint: &str, version: &str) -> Result<i64, ChangeError> {
        let item = self.item(endpoint, version)?;
        let served = item.served.as_ref();
        let served = served.ok_or_else(|| not_ready(version, item))?;
        Ok(served.reference.id)
    }

    fn standing(&self, endpoint: &str) -> Standing {
        Standing::of(self.rows.iter().filter(|row| row.endpoint == endpoint))
    }

    /// `model/version` of a row id.
    fn name_of(&self, shelved: &Shelved, id: i64) -> Option<String> {
        let is_it = |item: &&Item| item.served.as_ref().is_some_and(|s| s.reference.id == id);
        let loaded = shelved.versions.values().find(is_it);
        let loaded = loaded.and_then(|item| Some(item.served.as_ref()?.reference.to_string()));
        let row = self.rows.iter().find(|row| row.change.version_id == id);
        loaded.or_else(|| row.map(|row| format!("{}/{}", row.model, row.version)))
    }

    /// The engine that follows from the books. Where the version that is to serve is not there, the one of `before` goes on; the texts say
    /// which those are. Without one before, the endpoint is left out.
    fn engine(&self, before: &Engine) -> (Engine, Vec<String>) {
        let (mut engine, mut missing) = (Engine::default(), Vec::new());
        for (name, shelved) in &self.shelf.endpoints {
            let standing = self.standing(name);
            let wanted = standing
                .production()
                .and_then(|id| self.name_of(shelved, id));
            let wanted = wanted.unwrap_or_else(|| shelved.manifest.default.clone());
            let versions: BTreeMap<String, Arc<Served>> = shelved
                .versions
                .iter()
                .filter_map(|(id, item)| Some((id.clone(), Arc::clone(item.served.as_ref()?))))
                .collect();
            let served = versions.get(&wanted).cloned();
            if served.is_none() {
                missing.push(self.why_missing(shelved, &wanted));
            }
            let serving = before.endpoint(name).map(|e| Arc::clone(&e.production));
            let Some(production) = served.or(serving) else {
                continue;
            };
            let staging = standing.staging();
            let staging = versions
                .values()
                .find(|served| Some(served.reference.id) == staging)
                .cloned();
            let before = standing.earlier();
            let before = before.filter_map(|id| shelved.ready(id)).collect();
            let endpoint = ServedEndpoint::new(
                shelved.name.clone(),
                shelved.manifest.clone(),
                versions,
                production,
            );
            engine.insert(ServedEndpoint {
                staging,
                before,
                unready: shelved.unready(),
                ..endpoint
            });
        }
        (engine, missing)
    }

    /// Why the version that is to serve an endpoint does not.
    fn why_missing(&self, shelved: &Shelved, wanted: &str) -> String {
        match shelved.versions.get(wanted) {
            Some(item) => item.mistakes.join("; "),
            None if self.standing(shelved.name.as_str()).production().is_some() => format!(
                "{}: version {wanted} is in production, and its folder is not there: put it back",
                shelved.name
            ),
            None => format!(
                "{}/endpoint.toml: default: \"{wanted}\" is not in the folder",
                shelved.name
            ),
        }
    }
}

fn not_ready(version: &str, item: &Item) -> ChangeError {
    let (version, why) = (version.to_owned(), item.mistakes.join("; "));
    if item.is_unsettled {
        return ChangeError::Unsettled { version, why };
    }
    ChangeError::NotReady {
        version,
        mistakes: why,
    }
}

/// Says what a reading of the folder came to, where an operator looks.
fn tell(report: &Report) {
    for path in &report.loaded {
        tracing::info!(path, "version ready");
    }
    for (path, mistake) in &report.mistakes {
        tracing::error!(path, "not loaded: {mistake}");
    }
}
