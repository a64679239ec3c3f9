//! What `replay` and `export` read: the server's database and models, found as the server finds them.

use crate::config::{Overrides, RawConfig};
use crate::export::ExportError;
use crate::replay::ReplayError;
use crate::store::{self, History, StoreError, open_readonly};
use crate::stream::Moment;
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::sync::Arc;
use tidegate_protocol::{DeviceId, EndpointName};

/// Flags that say where the log is.
#[derive(Debug, Clone, Args)]
pub struct SourceArgs {
    /// Configuration file of the server (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of the database [default: data]. A server may be running on it.
    #[arg(long, value_name = "DIR", conflicts_with = "store_url")]
    data_dir: Option<PathBuf>,
    /// The database, where it is not in a folder: `sqlite:PATH` or `postgres://user:password@host:port/database`.
    #[arg(long, value_name = "URL")]
    store_url: Option<String>,
    /// Folder of models [default: the built-in ones].
    #[arg(long, value_name = "DIR")]
    models_dir: Option<PathBuf>,
}

impl SourceArgs {
    fn config(&self) -> anyhow::Result<RawConfig> {
        let overrides = Overrides {
            data_dir: self.data_dir.clone(),
            store_url: self.store_url.clone(),
            models_dir: self.models_dir.clone(),
            ..Overrides::default()
        };
        Ok(RawConfig::read(self.config.as_deref(), overrides)?)
    }

    /// Opens the database for reading.
    pub async fn open(&self, readers: u32) -> anyhow::Result<Arc<dyn History>> {
        let config = self.config()?.check()?;
        Ok(open_readonly(&config.database, readers).await?)
    }

    /// An error of the log, with the name of the database and what to do; others as they are.
    pub fn named(&self, error: anyhow::Error) -> anyhow::Error {
        let Ok(config) = self.config().and_then(|raw| Ok(raw.check()?)) else {
            return error;
        };
        let named = |error| store::explain(error, &config.database).into();
        let error = match error.downcast::<StoreError>() {
            Ok(error) => return named(error),
            Err(error) => error,
        };
        let error = match error.downcast::<ReplayError>() {
            Ok(ReplayError::Store(error)) => return named(error),
            Ok(error) => error.into(),
            Err(error) => error,
        };
        match error.downcast::<ExportError>() {
            Ok(ExportError::Store(error)) => named(error),
            Ok(error) => error.into(),
            Err(error) => error,
        }
    }

    /// The folder of models; none are the built-in ones.
    pub fn models_dir(&self) -> anyhow::Result<Option<PathBuf>> {
        Ok(self.config()?.models_dir)
    }
}

/// Flags that say which readings.
#[derive(Debug, Clone, Args)]
pub struct RangeArgs {
    /// The endpoint, such as pump-health.
    #[arg(long, short)]
    pub endpoint: EndpointName,
    /// Only this device.
    #[arg(long, short)]
    pub device: Option<DeviceId>,
    /// Only readings measured at or after: RFC 3339 (UTC where no offset is given) or Unix ms.
    #[arg(long, value_name = "T")]
    pub from: Option<Moment>,
    /// Only readings measured before.
    #[arg(long, value_name = "T")]
    pub to: Option<Moment>,
    /// Whether back-filled streams are read too.
    #[arg(long, value_enum, default_value_t = ImportsName::With)]
    pub imports: ImportsName,
}

impl RangeArgs {
    /// The streams that fit.
    pub fn streams(&self) -> crate::store::history::StreamFilter {
        crate::store::history::StreamFilter {
            endpoint: Some(self.endpoint.to_string()),
            device: self.device.as_ref().map(ToString::to_string),
            imports: self.imports.into(),
        }
    }

    /// Refuses a range that ends before it begins.
    pub fn check(&self) -> anyhow::Result<()> {
        match (self.from, self.to) {
            (Some(from), Some(to)) if from >= to => {
                bail!("--from {from} is not before --to {to}")
            }
            _ => Ok(()),
        }
    }

    /// What is left of the log when the range has nothing in it, in words.
    pub fn nothing(&self) -> String {
        let device = self.device.as_ref();
        let device = device.map_or(String::new(), |device| format!(" of device {device}"));
        format!(
            "no stored reading{device} at endpoint {} is in this range",
            self.endpoint
        )
    }
}

/// [`crate::store::history::Imports`] by its names on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ImportsName {
    /// Beside the live streams.
    With,
    /// Live streams only.
    Without,
    /// Back-filled streams only.
    Only,
}

impl From<ImportsName> for crate::store::history::Imports {
    fn from(name: ImportsName) -> Self {
        match name {
            ImportsName::With => Self::With,
            ImportsName::Without => Self::Without,
            ImportsName::Only => Self::Only,
        }
    }
}

/// Threads of a replay when none are asked for: one a core.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Says on standard output what a report is; a reader that has closed it is no mistake.
pub fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("standard output"),
    }
}
