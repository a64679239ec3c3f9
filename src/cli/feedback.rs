//! `tidegate feedback`: ground truth from a CSV file.
//!
//! The file's header says what each row is about: `sample`; or `endpoint`, `device`, `epoch` and `seq`; or `device`, `failed_at` and
//! `window_s`; and `label`. Rows that are not taken are named by line, and the rest goes on.

use super::model::remote::{ServerArgs, list_of, text};
use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::process::ExitCode;
use tidegate_protocol::{DeviceId, EndpointName};

/// Rows of a request: its body is at most 64 KiB, and a row some 100 bytes.
const ROWS: usize = 250;
/// Columns that may be there, and whether they are numbers.
const COLUMNS: [(&str, bool); 8] = [
    ("sample", true),
    ("endpoint", false),
    ("device", false),
    ("epoch", true),
    ("seq", true),
    ("failed_at", true),
    ("window_s", true),
    ("label", false),
];
/// Rows not taken that are printed; all are counted.
const MOST_PRINTED: usize = 100;

/// Give ground truth for stored readings from a CSV file.
///
/// Columns: `label`, and `sample` (the id of a stored sample), or `device`, `epoch`, `seq`, or `device`, `failed_at` (Unix ms), `window_s`: all
/// readings of the device in that time before it get the label. `endpoint` and `device` may be given as flags instead.
///
/// Giving a file again is harmless. Exits with 0 only when every row was taken.
#[derive(Debug, Clone, Args)]
pub struct FeedbackArgs {
    /// The file; its first line names the columns.
    file: PathBuf,
    /// The endpoint of all rows.
    #[arg(long, short)]
    endpoint: Option<EndpointName>,
    /// The device of all rows.
    #[arg(long, short)]
    device: Option<DeviceId>,
    #[command(flatten)]
    server: ServerArgs,
}

/// What became of the rows.
#[derive(Default)]
struct Tally {
    rows: usize,
    stored: u64,
    waiting: u64,
    refused: usize,
}

/// Runs the command.
///
/// # Errors
/// A file that is no table, a server that cannot be reached.
pub async fn run(args: FeedbackArgs) -> anyhow::Result<ExitCode> {
    let file = args.file.display().to_string();
    let mut table = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_path(&args.file)
        .with_context(|| file.clone())?;
    let columns =
        columns(table.headers().with_context(|| file.clone())?).with_context(|| file.clone())?;
    let mut tally = Tally::default();
    let mut items = Vec::new();
    for record in table.records() {
        let record = record.with_context(|| file.clone())?;
        let line = record.position().map_or(0, csv::Position::line);
        tally.rows += 1;
        match item(&columns, &record, &args) {
            Ok(item) => items.push((line, item)),
            Err(reason) => tally.refuse(&file, line, &reason),
        }
        if items.len() == ROWS {
            give(&args, &file, std::mem::take(&mut items), &mut tally).await?;
        }
    }
    give(&args, &file, items, &mut tally).await?;
    let Tally {
        rows,
        stored,
        waiting,
        refused,
    } = tally;
    let answer = json!({"rows": rows, "stored": stored, "waiting": waiting, "refused": refused});
    args.server.tell(&answer, |_| {
        format!("{rows} rows: {stored} labels stored, {waiting} wait for their reading, {refused} rows not taken")
    })?;
    Ok(match refused {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Which column each cell of a row belongs to.
fn columns(header: &csv::StringRecord) -> anyhow::Result<Vec<(&'static str, bool)>> {
    let known = |name: &str| COLUMNS.iter().find(|(column, _)| *column == name).copied();
    let names: Vec<_> = header.iter().map(|name| known(name).ok_or(name)).collect();
    if let Some(Err(name)) = names.iter().find(|name| name.is_err()) {
        let expected = COLUMNS.map(|(column, _)| column).join(", ");
        bail!("column {name:?}: expected some of {expected}");
    }
    let names: Vec<_> = names.into_iter().filter_map(Result::ok).collect();
    if !names.iter().any(|(name, _)| *name == "label") {
        bail!("no column `label`");
    }
    Ok(names)
}

fn item(
    columns: &[(&'static str, bool)],
    record: &csv::StringRecord,
    args: &FeedbackArgs,
) -> Result<Value, String> {
    let mut item = Map::new();
    if let Some(endpoint) = &args.endpoint {
        item.insert("endpoint".into(), endpoint.as_str().into());
    }
    if let Some(device) = &args.device {
        item.insert("device".into(), device.as_str().into());
    }
    for ((name, is_number), cell) in columns.iter().zip(record) {
        if cell.is_empty() {
            continue;
        }
        // A label may be either: a number is one.
        let number = serde_json::from_str::<serde_json::Number>(cell).ok();
        let value = match (number, *name) {
            (Some(number), _) if *is_number => Value::Number(number),
            (None, name) if *is_number => return Err(format!("{name}: {cell:?} is no number")),
            (Some(number), "label") => Value::Number(number),
            _ => cell.into(),
        };
        item.insert((*name).to_owned(), value);
    }
    match item.contains_key("label") {
        true => Ok(Value::Object(item)),
        false => Err("no label".into()),
    }
}

async fn give(
    args: &FeedbackArgs,
    file: &str,
    items: Vec<(u64, Value)>,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    if items.is_empty() {
        return Ok(());
    }
    let (lines, items): (Vec<u64>, Vec<Value>) = items.into_iter().unzip();
    let body = json!({ "feedback": items });
    let answer = args.server.post("/api/v1/feedback", Some(&body)).await?;
    tally.stored += answer["stored"].as_u64().unwrap_or_default();
    tally.waiting += answer["waiting"].as_u64().unwrap_or_default();
    for one in list_of(&answer["refused"]) {
        let index = one["index"]
            .as_u64()
            .and_then(|index| usize::try_from(index).ok());
        let line = index.and_then(|index| lines.get(index)).copied();
        tally.refuse(file, line.unwrap_or_default(), &text(&one["detail"]));
    }
    Ok(())
}

impl Tally {
    fn refuse(&mut self, file: &str, line: u64, reason: &str) {
        self.refused += 1;
        if self.refused <= MOST_PRINTED {
            eprintln!("{file}, line {line}: {reason}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        feedback: FeedbackArgs,
    }

    #[test]
    fn a_row_becomes_an_item_and_a_label_may_be_a_number() {
        let flags = Flags::parse_from(["feedback", "f.csv", "--endpoint", "pump-health"]);
        let header = csv::StringRecord::from(vec!["device", "seq", "label"]);
        let columns = columns(&header).expect("known columns");
        let row = |cells: [&str; 3]| {
            item(
                &columns,
                &csv::StringRecord::from(cells.to_vec()),
                &flags.feedback,
            )
        };
        let expected = json!({"endpoint": "pump-health", "device": "7", "seq": 4, "label": "worn"});
        assert_eq!(row(["7", "4", "worn"]), Ok(expected));
        assert_eq!(
            row(["7", "4", "1.5"]).expect("an item")["label"],
            json!(1.5)
        );
        assert!(row(["7", "four", "worn"]).is_err());
        assert!(row(["7", "4", ""]).is_err());
    }

    #[test]
    fn unknown_columns_are_named() {
        let wrong = csv::StringRecord::from(vec!["device", "sequence", "label"]);
        let said = columns(&wrong).expect_err("refused").to_string();
        assert!(
            said.contains("sequence") && said.contains("failed_at"),
            "{said}"
        );
        assert!(columns(&csv::StringRecord::from(vec!["sample"])).is_err());
    }
}
