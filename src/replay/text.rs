//! The two reports as text for people and as CSV for tables: a line a stream, the first one (`*`) all of them together.

use super::figures::{Agreement, Comparison, DeviceChange, Shift};
use super::report::{Counts, Difference, Outcome, StreamCounts, Verified};
use super::spread::Spread;
use crate::stream::counted;
use std::fmt::{self, Display, Formatter};

/// Stands for all streams in a table.
const ALL: &str = "*";

impl Display for Verified {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let counts = &self.counts;
        writeln!(f, "endpoint: {}", self.endpoint)?;
        writeln!(f, "streams: {}", self.streams)?;
        write!(f, "readings: {}", counts.readings)?;
        by_version(f, &self.versions)?;
        writeln!(f, "equal: {}", counts.equal)?;
        writeln!(f, "different: {}", counts.different)?;
        writeln!(f, "late, not folded: {}", counts.late)?;
        writeln!(
            f,
            "snapshots: {} equal, {} different",
            counts.snapshots_equal, counts.snapshots_different
        )?;
        writeln!(f, "not reproducible: {}", counts.not_reproducible)?;
        for (reason, readings) in &self.not_reproducible {
            writeln!(f, "  {readings} {reason}")?;
        }
        if counts.retired > 0 {
            writeln!(f, "no longer stored: {}", counts.retired)?;
        }
        self.differences
            .iter()
            .try_for_each(|difference| write!(f, "{difference}"))?;
        let unlisted = counts.different + counts.snapshots_different;
        let unlisted = unlisted - self.differences.len() as u64;
        if unlisted > 0 {
            writeln!(f, "and {}", counted(unlisted, "more difference"))?;
        }
        match self.result {
            Outcome::Equal => write!(f, "result: equal to the bit"),
            Outcome::Different => write!(
                f,
                "result: {} and {} differ",
                counted(counts.different, "prediction"),
                counted(counts.snapshots_different, "snapshot")
            ),
            Outcome::Incomplete => write!(
                f,
                "result: nothing differs, but {} cannot be run again",
                counted(counts.not_reproducible, "reading")
            ),
            Outcome::Empty => write!(f, "result: no stored reading is in this range"),
        }
    }
}

/// ` (mewma/1.0.0 450, autoencoder/1.0.0 20)` and the end of the line.
fn by_version(
    f: &mut Formatter<'_>,
    versions: &std::collections::BTreeMap<String, u64>,
) -> fmt::Result {
    let list: Vec<String> = versions
        .iter()
        .map(|(version, readings)| format!("{version} {readings}"))
        .collect();
    if list.is_empty() {
        return writeln!(f);
    }
    writeln!(f, " ({})", list.join(", "))
}

impl Display for Difference {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", stream_name(&self.device, self.import))?;
        match &self.sample {
            Some(place) => write!(
                f,
                ", epoch {}, seq {}, id {}",
                place.epoch, place.seq, place.id
            )?,
            None => write!(f, ", log position {}", self.pos)?,
        }
        writeln!(f, ": {}", self.what)?;
        writeln!(f, "  recorded {}", self.recorded)?;
        writeln!(f, "  replayed {}", self.replayed)
    }
}

fn stream_name(device: &str, import: u64) -> String {
    match import {
        0 => device.to_owned(),
        import => format!("{device} (import {import})"),
    }
}

impl Verified {
    /// One line a stream.
    pub fn to_csv(&self) -> String {
        let columns = [
            "device",
            "import",
            "readings",
            "equal",
            "different",
            "late",
            "snapshots_equal",
            "snapshots_different",
            "not_reproducible",
            "retired",
        ];
        let all = StreamCounts {
            device: ALL.into(),
            import: 0,
            counts: self.counts.clone(),
        };
        let lines = std::iter::once(&all).chain(&self.by_stream);
        table(&columns, lines.map(counts_line))
    }
}

fn counts_line(stream: &StreamCounts) -> Vec<String> {
    let Counts {
        readings,
        equal,
        different,
        late,
        snapshots_equal,
        snapshots_different,
        not_reproducible,
        retired,
    } = &stream.counts;
    let numbers = [
        &stream.import,
        readings,
        equal,
        different,
        late,
        snapshots_equal,
        snapshots_different,
        not_reproducible,
        retired,
    ];
    let numbers = numbers.into_iter().map(ToString::to_string);
    std::iter::once(stream.device.clone())
        .chain(numbers)
        .collect()
}

impl Display for Comparison {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let rows = &self.rows;
        writeln!(f, "endpoint: {}", self.endpoint)?;
        writeln!(f, "version: {}", self.version)?;
        writeln!(f, "streams: {}", self.streams)?;
        write!(f, "readings: {}", rows.readings)?;
        by_version(f, &self.recorded)?;
        writeln!(f, "compared: {}", rows.compared)?;
        writeln!(
            f,
            "calibrating: {} (recorded {}, other {})",
            rows.calibrating, rows.calibrating_recorded, rows.calibrating_other
        )?;
        writeln!(f, "failed: {}", rows.failed)?;
        writeln!(f, "late, not folded: {}", rows.late)?;
        writeln!(f, "not comparable: {}", rows.not_comparable)?;
        if let Some(agreement) = &self.agreement {
            write!(f, "\n{agreement}")?;
        }
        if let Some(shift) = &self.shift {
            write!(f, "\n{shift}")?;
        }
        if !self.most_changed.is_empty() {
            write_most_changed(f, &self.most_changed)?;
        }
        Ok(())
    }
}

impl Display for Agreement {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(table) = &self.decisions {
            writeln!(f, "decisions              other: normal  other: anomaly")?;
            writeln!(
                f,
                "recorded: normal  {:>18} {:>15}",
                table.both_normal, table.only_other
            )?;
            writeln!(
                f,
                "recorded: anomaly {:>18} {:>15}",
                table.only_recorded, table.both_anomaly
            )?;
        }
        let same = counted(self.same, "reading");
        writeln!(f, "agreement: {:.4} ({same})", self.share)?;
        if self.decisions.is_some() {
            writeln!(f, "kappa: {}", or_dash(self.kappa))?;
        }
        Ok(())
    }
}

impl Display for Shift {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:<12}", self.of)?;
        for name in [
            "mean", "sd", "min", "5 %", "25 %", "50 %", "75 %", "95 %", "max",
        ] {
            write!(f, " {name:>10}")?;
        }
        writeln!(f)?;
        write_spread(f, "recorded", &self.recorded)?;
        write_spread(f, "other", &self.other)?;
        write_spread(f, "difference", &self.difference)?;
        let absolute = short(self.difference.mean_absolute);
        writeln!(f, "mean absolute difference: {absolute}")?;
        writeln!(f, "ks distance: {:.4}", self.ks)
    }
}

fn write_spread(f: &mut Formatter<'_>, name: &str, spread: &Spread) -> fmt::Result {
    write!(f, "{name:<12}")?;
    let Spread {
        mean,
        sd,
        min,
        q05,
        q25,
        q50,
        q75,
        q95,
        max,
        ..
    } = spread;
    for number in [mean, sd, min, q05, q25, q50, q75, q95, max] {
        write!(f, " {:>10}", short(*number))?;
    }
    writeln!(f)
}

fn write_most_changed(f: &mut Formatter<'_>, changes: &[DeviceChange]) -> fmt::Result {
    writeln!(
        f,
        "\n{:<32} {:>9} {:>9} {:>8} {:>11} {:>11}",
        "changes most", "compared", "changed", "share", "mean diff", "mean |diff|"
    )?;
    for change in changes {
        writeln!(
            f,
            "{:<32} {:>9} {:>9} {:>8.4} {:>11} {:>11}",
            stream_name(&change.device, change.import),
            change.rows.compared,
            change.changed,
            change.changed_share,
            or_dash(change.mean_difference),
            or_dash(change.mean_absolute_difference)
        )?;
    }
    Ok(())
}

/// Four digits or so, which is what a person compares; JSON and CSV have all.
fn short(number: f64) -> String {
    match number.abs() {
        large if large >= 1_000.0 => format!("{number:.0}"),
        middle if middle >= 10.0 => format!("{number:.2}"),
        _ => format!("{number:.4}"),
    }
}

fn or_dash(number: Option<f64>) -> String {
    number.map_or_else(|| "-".to_owned(), short)
}

impl Comparison {
    /// One line a stream.
    pub fn to_csv(&self) -> String {
        let columns = [
            "device",
            "import",
            "readings",
            "compared",
            "calibrating",
            "failed",
            "late",
            "not_comparable",
            "changed",
            "changed_share",
            "mean_difference",
            "mean_absolute_difference",
        ];
        let changed = self.by_stream.iter().map(|change| change.changed).sum();
        let difference = self.shift.as_ref().map(|shift| &shift.difference);
        let all = DeviceChange {
            device: ALL.into(),
            import: 0,
            rows: self.rows,
            changed,
            changed_share: changed as f64 / self.rows.compared.max(1) as f64,
            mean_difference: difference.map(|difference| difference.mean),
            mean_absolute_difference: difference.map(|difference| difference.mean_absolute),
        };
        let lines = std::iter::once(&all).chain(&self.by_stream);
        table(&columns, lines.map(change_line))
    }
}

fn change_line(change: &DeviceChange) -> Vec<String> {
    let rows = &change.rows;
    let number = |number: Option<f64>| number.map(|number| number.to_string()).unwrap_or_default();
    vec![
        change.device.clone(),
        change.import.to_string(),
        rows.readings.to_string(),
        rows.compared.to_string(),
        rows.calibrating.to_string(),
        rows.failed.to_string(),
        rows.late.to_string(),
        rows.not_comparable.to_string(),
        change.changed.to_string(),
        change.changed_share.to_string(),
        number(change.mean_difference),
        number(change.mean_absolute_difference),
    ]
}

/// Device names hold nothing that CSV would have to quote.
fn table(columns: &[&str], lines: impl Iterator<Item = Vec<String>>) -> String {
    let mut text = columns.join(",");
    for line in lines {
        text.push('\n');
        text.push_str(&line.join(","));
    }
    text
}
