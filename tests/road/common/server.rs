//! A server in the test's own process, on a port and a folder of its own.

use super::http::{Answer, request};
use super::peer::{Device, Subscriber};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tidegate::app::{Running, StartError, start, start_with};
use tidegate::config::RawConfig;
use tidegate_models::Zoo;
use tidegate_protocol::Codec;

/// A running server. It ends with the test: its tasks with the test's runtime, its folder when it is dropped.
pub struct TestServer {
    running: Running,
    raw: RawConfig,
    dir: TempDir,
}

impl TestServer {
    /// A server with the defaults.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// A server whose configuration `change` has changed.
    pub async fn start_with(change: impl FnOnce(&mut RawConfig)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut raw = config(dir.path());
        change(&mut raw);
        let running = run(raw.clone()).await.expect("the server starts");
        Self { running, raw, dir }
    }

    /// A server with these models and a configuration that `change` has changed.
    pub async fn start_serving(zoo: Zoo, change: impl FnOnce(&mut RawConfig)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut raw = config(dir.path());
        change(&mut raw);
        let checked = raw.clone().check().expect("the configuration is valid");
        let running = start_with(checked, zoo).await.expect("the server starts");
        Self { running, raw, dir }
    }

    /// A server with the defaults on a database server.
    pub async fn start_on(postgres: &super::Postgres) -> Self {
        Self::start_with(|raw| raw.store.url = Some(postgres.url().into())).await
    }

    /// Stops it in order and starts another one on the same folder.
    pub async fn restart(self) -> Self {
        let Self { running, raw, dir } = self;
        assert!(running.stop().await, "the stop was not clean");
        let running = run(raw.clone()).await.expect("the server starts again");
        Self { running, raw, dir }
    }

    /// Stops it in order; true when everything that was taken is committed and told.
    pub async fn stop(self) -> bool {
        self.running.stop().await
    }

    /// Ends when another server has taken its database over.
    pub async fn lost(&self) -> tidegate::app::Lost {
        super::within("a loss", self.running.lost()).await
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.running.addr()
    }

    /// Where it stores.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// A device over JSON that was welcomed.
    pub async fn device(&self, id: &str) -> Device {
        Device::open(self.addr(), &format!("device={id}"), Codec::Json).await
    }

    /// A device with other parameters that was welcomed.
    pub async fn device_with(&self, query: &str, codec: Codec) -> Device {
        Device::open(self.addr(), query, codec).await
    }

    /// A subscriber without a subscription yet.
    pub async fn subscriber(&self) -> Subscriber {
        Subscriber::connect(self.addr(), Codec::Json).await
    }

    /// Answer to a GET.
    pub async fn get(&self, path: &str) -> Answer {
        request(self.addr(), "GET", path, None).await
    }

    /// Answer to a POST of JSON.
    pub async fn post(&self, path: &str, body: &str) -> Answer {
        request(self.addr(), "POST", path, Some(body)).await
    }

    /// Every stored sample of a device, oldest first.
    pub async fn samples(&self, device: &str) -> Vec<tidegate_protocol::Sample> {
        super::http::samples(self.addr(), device).await
    }
}

/// The configuration of a test's server.
pub fn config(dir: &Path) -> RawConfig {
    RawConfig {
        listen: "127.0.0.1:0".into(),
        data_dir: dir.to_owned(),
        ..RawConfig::default()
    }
}

/// Starts a server.
///
/// # Errors
/// What keeps it from starting.
pub async fn run(raw: RawConfig) -> Result<Running, StartError> {
    start(raw.check().expect("the configuration is valid")).await
}
