//! What is there, as it is told: endpoints, their versions with status and mistakes, and every change of status.

use super::Books;
use super::shelf::{Item, Shelved};
use crate::inference::{Engine, Served};
use crate::store::StatusRow;
use crate::stream::Status;
use crate::telemetry::metric;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidegate_models::EndpointManifest;

/// Everything, at one moment.
#[derive(Debug, Default)]
pub struct Catalogue {
    /// By name.
    pub endpoints: BTreeMap<String, Listed>,
    /// Endpoints that could not be read: name and mistake.
    pub broken: BTreeMap<String, String>,
}

impl Catalogue {
    /// Sets the gauges.
    pub(super) fn measure(&self) {
        let versions = || {
            self.endpoints
                .values()
                .flat_map(|listed| listed.versions.values())
        };
        let ready = versions().filter(|version| version.ready).count();
        for (state, count) in [("ready", ready), ("not_ready", versions().count() - ready)] {
            metrics::gauge!(metric::VERSIONS, "state" => state).set(count as f64);
        }
    }
}

/// An endpoint.
#[derive(Debug)]
pub struct Listed {
    /// Its schema in force.
    pub manifest: EndpointManifest,
    /// The version that serves.
    pub production: String,
    /// What is wrong with its newest `endpoint.toml`.
    pub mistake: Option<String>,
    /// By `model/version`.
    pub versions: BTreeMap<String, Entry>,
}

/// A version.
#[derive(Debug)]
pub struct Entry {
    /// `model/version`.
    pub name: String,
    /// What it is to its endpoint.
    pub status: Status,
    /// Whether it may serve.
    pub ready: bool,
    /// Where it runs; `None`: it could not be loaded.
    pub served: Option<Arc<Served>>,
    /// SHA-256 of its files, hexadecimal; empty where they could not be read.
    pub hash: String,
    /// Why it is not ready.
    pub mistakes: Vec<String>,
    /// Its `model.toml`; empty where it is not known.
    pub manifest: Arc<str>,
    /// Name and bytes of its files.
    pub files: Vec<(String, u64)>,
    /// Its changes of status, oldest first.
    pub history: Vec<StatusRow>,
}

impl Books {
    /// What is there, with what `engine` serves.
    pub(super) fn catalogue(&self, engine: &Engine) -> Catalogue {
        let endpoints = self.shelf.endpoints.iter();
        let endpoints = endpoints.filter_map(|(name, shelved)| {
            let production = &engine.endpoint(name)?.production;
            Some((name.clone(), self.listed(shelved, production)))
        });
        Catalogue {
            endpoints: endpoints.collect(),
            broken: self.shelf.broken.clone(),
        }
    }

    fn listed(&self, shelved: &Shelved, production: &Served) -> Listed {
        let standing = self.standing(shelved.name.as_str());
        let status = |item: &Item| match &item.served {
            Some(served) if served.reference == production.reference => Status::Production,
            Some(served) => standing.status(served.reference.id),
            None => Status::Testing,
        };
        let versions = shelved.versions.iter().map(|(name, item)| {
            let entry = self.entry(shelved, name, item, status(item));
            (name.clone(), entry)
        });
        Listed {
            manifest: shelved.manifest.clone(),
            production: production.reference.to_string(),
            mistake: shelved.mistake.clone(),
            versions: versions.collect(),
        }
    }

    fn entry(&self, shelved: &Shelved, name: &str, item: &Item, status: Status) -> Entry {
        let of_it = |row: &&StatusRow| {
            row.endpoint == shelved.name.as_str()
                && format!("{}/{}", row.model, row.version) == name
        };
        let hash = item.hash.iter().flatten();
        Entry {
            name: name.to_owned(),
            status,
            ready: item.served.is_some() && item.mistakes.is_empty(),
            served: item.served.clone(),
            hash: hash.map(|byte| format!("{byte:02x}")).collect(),
            mistakes: item.mistakes.clone(),
            manifest: Arc::clone(&item.manifest),
            files: item.files.clone(),
            history: self.rows.iter().filter(of_it).cloned().collect(),
        }
    }
}
