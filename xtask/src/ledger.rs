//! `cargo xtask ledger`: the ledger test over many seeds, with its table at the end.
//!
//! The test itself is an ordinary test target (`tests/ledger`); what the command line asks for reaches it through plain variables.
//! Ends with the test's exit code: 1 when any seed broke a promise.

use anyhow::{Context, Result, bail};

use crate::{shell, tools};

/// What `cargo xtask help ledger` prints.
pub const HELP: &str = "\
Play seeds of faults against the real server and compare the devices' ledgers with the database

Usage: cargo xtask ledger [--seeds N] [--from S] [--seed S] [--store sqlite|postgres|both]

Options:
      --seeds N     Play N seeds [default: 100]
      --from S      Begin with seed S [default: 1]
      --seed S      Play this seed alone, print its plan and keep its data
      --store NAME  sqlite, postgres or both, one after the other [default: both]

Prints a line a seed and a table: faults by kind, readings, acked, re-sent, and what must be 0. A broken
seed prints its plan and the command that plays it again; exit code 1 then.
";

const STORES: [&str; 3] = ["sqlite", "postgres", "both"];

/// What the command line asked for.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    seeds: u64,
    from: u64,
    keep: bool,
    store: String,
}

/// Plays the seeds.
pub fn run(args: &[String]) -> Result<()> {
    let options = Options::parse(args)?;
    tools::need_mosquitto()?;
    tools::need_strace()?;
    if options.store != "sqlite" {
        tools::need_postgres()?;
    }
    let mut cargo = shell::cargo();
    cargo
        .args([
            "test",
            "--workspace",
            "--test",
            "ledger",
            "whatever_breaks",
            "--",
        ])
        .args(["--nocapture", "--test-threads=1"])
        .env("LEDGER_SEEDS", options.seeds.to_string())
        .env("LEDGER_FROM", options.from.to_string())
        .env("LEDGER_STORE", &options.store);
    if options.keep {
        cargo.env("LEDGER_KEEP", "1");
    }
    shell::run(&mut cargo)
}

impl Options {
    fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self {
            seeds: 100,
            from: 1,
            keep: false,
            store: "both".into(),
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let (flag, inline) = match arg.split_once('=') {
                Some((flag, value)) => (flag, Some(value)),
                None => (arg.as_str(), None),
            };
            let value = inline.or_else(|| args.next().map(String::as_str));
            let value = value.with_context(|| format!("{flag} needs a value"))?;
            match flag {
                "--seeds" => options.seeds = number(flag, value)?,
                "--from" => options.from = number(flag, value)?,
                "--seed" => {
                    options.from = number(flag, value)?;
                    options.seeds = 1;
                    options.keep = true;
                }
                "--store" if STORES.contains(&value) => options.store = value.into(),
                "--store" => bail!("no store `{value}`; there are {}", STORES.join(", ")),
                _ => bail!("no option `{arg}`; see `cargo xtask ledger --help`"),
            }
        }
        Ok(options)
    }
}

fn number(flag: &str, value: &str) -> Result<u64> {
    let number = value.parse();
    number.with_context(|| format!("{flag} {value}: expected a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        let args: Vec<String> = line.split_whitespace().map(String::from).collect();
        Options::parse(&args)
    }

    #[test]
    fn one_seed_is_played_alone_and_kept() {
        let options = parse("--seed 7 --store=sqlite").expect("a good command line");
        assert_eq!((options.from, options.seeds, options.keep), (7, 1, true));
        assert_eq!(options.store, "sqlite");
    }

    #[test]
    fn many_seeds_are_played_on_both_stores() {
        let options = parse("--seeds 30 --from 5").expect("a good command line");
        assert_eq!((options.from, options.seeds, options.keep), (5, 30, false));
        assert_eq!(options.store, "both");
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for line in ["--seeds many", "--store oracle", "--fast 1", "--seeds"] {
            let error = parse(line).expect_err("no good command line").to_string();
            let word = line.split_whitespace().last().expect("a word");
            let flag = line.split_whitespace().next().expect("a flag");
            assert!(error.contains(word) || error.contains(flag), "{error}");
        }
    }
}
