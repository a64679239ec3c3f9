//! From nothing to ready, with the zoo loaded; and the size of the binary.

use super::Args;
use super::common::backing::Backing;
use super::common::figures::Figures;
use super::common::ms;
use std::time::{Duration, Instant};

/// Starts, the middle of which is told.
const STARTS: usize = 7;
/// Time to ready to aim at, and size of the binary, MB.
const AIM: Duration = Duration::from_millis(300);
const AIM_MB: f64 = 40.0;

pub async fn measure(
    _args: &Args,
    backings: &[Backing],
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let fresh = backings[0].fresh().await?;
        let begin = Instant::now();
        let server = fresh.serve()?;
        while server.get("/health/ready").await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        times.push(begin.elapsed());
    }
    times.sort();
    let (middle, worst) = (times[STARTS / 2], times[STARTS - 1]);
    figures.aim(
        "start to ready, an empty store",
        format!(
            "{} (worst of {STARTS}: {})",
            ms(super::common::micros(middle)),
            ms(super::common::micros(worst))
        ),
        format!("<= {} ms", AIM.as_millis()),
        middle <= AIM,
    );
    let bytes = std::fs::metadata(env!("CARGO_BIN_EXE_tidegate"))?.len();
    let mb = bytes as f64 / 1e6;
    figures.aim(
        "size of the binary, stripped in a release",
        format!("{mb:.1} MB"),
        format!("<= {AIM_MB} MB"),
        mb <= AIM_MB,
    );
    Ok(())
}
