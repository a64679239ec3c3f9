//! The `tidegate` binary: parse, run the command, exit code. Every error is one line.

use clap::Parser;
use std::process::ExitCode;
use tidegate::cli::{Cli, one_line};

/// Rows and messages are made on one thread and dropped on another, which glibc's allocator pays for with locks.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // candle's kernels start their thread pool on first use; one thread is fastest for rows, and steps run across sessions.
    // SAFETY: no other thread exists yet.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", "1") };
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    match runtime.block_on(cli.run()) {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("tidegate: {}", one_line(error));
    ExitCode::FAILURE
}
