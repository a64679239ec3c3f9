//! The commands of the `tidegate` binary.
//!
//! `serve` and `demo` start a server; `send` and `import` are devices, `bench` very many; `health` asks a server how it is; `reset` has a device
//! calibrate anew; `replay` and `export` read the log; `model` is the repository of versions; `experiment` compares them on live devices,
//! `feedback` says what was true, `alert` what a person should know; `simulate` plays experiments. Each command's flags are a struct in its file.

pub mod alert;
mod ask;
pub mod backup;
pub mod bench;
pub mod demo;
pub mod experiment;
pub mod export;
pub mod feedback;
pub mod health;
pub mod import;
pub mod model;
mod output;
pub mod replay;
pub mod reset;
pub mod rigs;
mod said;
pub mod send;
pub mod serve;
pub mod simulate;
mod source;
pub mod table;

pub use said::one_line;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use std::process::ExitCode;

/// Live model predictions on sensor streams.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Where the flags' struct explains the command at length, nothing is said here: it would hide that.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server.
    Serve(serve::ServeArgs),
    /// Run a server with simulated pump rigs and say where to look.
    Demo(demo::DemoArgs),
    Send(send::SendArgs),
    Bench(bench::BenchArgs),
    Import(import::ImportArgs),
    Replay(replay::ReplayArgs),
    Export(export::ExportArgs),
    Model(model::ModelArgs),
    Experiment(experiment::ExperimentArgs),
    Feedback(feedback::FeedbackArgs),
    Simulate(simulate::SimulateArgs),
    Alert(alert::AlertArgs),
    /// Ask a server whether it is ready.
    Health(health::HealthArgs),
    /// Copy the database to one file.
    Backup(backup::BackupArgs),
    /// Put a backup in place.
    Restore(backup::RestoreArgs),
    /// Set a device's model state back.
    Reset(reset::ResetArgs),
    /// Print completions for a shell.
    Completions {
        /// bash, zsh, fish, elvish or powershell.
        shell: Shell,
    },
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// What keeps it from running, in one line.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Serve(args) => serve::run(args).await,
            Command::Demo(args) => demo::run(args).await,
            Command::Send(args) => send::run(args).await,
            Command::Bench(args) => bench::run(args).await,
            Command::Import(args) => import::run(args).await,
            Command::Replay(args) => replay::run(args).await,
            Command::Export(args) => export::run(args).await,
            Command::Model(args) => model::run(args).await,
            Command::Experiment(args) => experiment::run(args).await,
            Command::Feedback(args) => feedback::run(args).await,
            Command::Simulate(args) => simulate::run(args).await,
            Command::Alert(args) => alert::run(args).await,
            Command::Health(args) => health::run(args).await,
            Command::Backup(args) => backup::backup(args).await,
            Command::Restore(args) => backup::restore(args).await,
            Command::Reset(args) => reset::run(args).await,
            Command::Completions { shell } => {
                clap_complete::generate(
                    shell,
                    &mut Cli::command(),
                    "tidegate",
                    &mut std::io::stdout(),
                );
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// Listens for ctrl-c and SIGTERM from now on; what it returns waits for the first of them.
pub(crate) fn told_to_stop() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
