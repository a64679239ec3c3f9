//! Writes simulated rigs as CSV: what a table of labelled sensor readings looks like, to train a model on.
//!
//! ```text
//! cargo run -p tidegate-models --example rig_csv -- [RIGS] [READINGS] [FIRST_SEED] > rigs.csv
//! ```
//!
//! One line a reading, rig after rig: `rig` (its seed), `ts` (Unix ms, one a second), the eight sensors under the names of the
//! `pump-health` endpoint, `label` (`normal`, `valve-closing`, `cavitation`, `imbalance`). Each rig is healthy at first, then meets
//! faults at random. The same arguments give the same bytes on every machine.

use std::io::{BufWriter, Write};

use tidegate_models::EndpointManifest;
use tidegate_models::rig::Rig;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// An endpoint whose features a rig's sensors are.
const ENDPOINT: &str = include_str!("../zoo/pump-health/endpoint.toml");
/// 2026-01-01 00:00 UTC.
const START_MS: u64 = 1_767_225_600_000;

fn main() -> Outcome<()> {
    let [rigs, readings, first_seed] = arguments([120, 3000, 1000])?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    header(&mut out)?;
    for seed in first_seed..first_seed + rigs {
        write_rig(&mut out, seed, readings)?;
    }
    Ok(out.flush()?)
}

/// Up to three numbers from the command line, the others as given here.
fn arguments(mut numbers: [u64; 3]) -> Outcome<[u64; 3]> {
    for (index, text) in std::env::args().skip(1).enumerate() {
        let number = numbers
            .get_mut(index)
            .ok_or("expected at most RIGS READINGS FIRST_SEED")?;
        *number = text
            .parse()
            .map_err(|_| format!("\"{text}\" is not a whole number"))?;
    }
    Ok(numbers)
}

fn header(out: &mut impl Write) -> Outcome<()> {
    let endpoint = EndpointManifest::parse(ENDPOINT).map_err(|mistake| mistake.to_string())?;
    let names: Vec<_> = endpoint.features.iter().map(|f| f.name.as_str()).collect();
    Ok(writeln!(out, "rig,ts,{},label", names.join(","))?)
}

fn write_rig(out: &mut impl Write, seed: u64, readings: u64) -> Outcome<()> {
    let mut rig = Rig::new(seed);
    for second in 0..readings {
        let (values, fault) = rig.next_reading();
        write!(out, "{seed},{}", START_MS + second * 1000)?;
        for value in values {
            write!(out, ",{value}")?;
        }
        writeln!(out, ",{}", fault.name())?;
    }
    Ok(())
}
