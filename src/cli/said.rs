//! What commands say to people: errors as one line, bars.

use indicatif::{ProgressState, ProgressStyle};
use std::fmt::Write;

/// The whole chain of causes in one line, each said once: many errors repeat their cause in their own words.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        let parts: Vec<&str> = text.lines().map(str::trim).collect();
        let parts = parts.into_iter().filter(|part| !part.is_empty());
        let text = parts.collect::<Vec<_>>().join(", ");
        if line.is_empty() {
            line = text;
        } else if !line.contains(&text) {
            let _ = write!(line, ": {text}");
        }
    }
    line
}

/// The style of a bar; `{rate}` is items a second, without the fractions that nobody reads.
pub(super) fn bar(template: &str) -> ProgressStyle {
    let rate = |state: &ProgressState, out: &mut dyn Write| {
        // Lost only where there is no bar.
        let _ = write!(out, "{:.0}/s", state.per_sec());
    };
    let style = ProgressStyle::with_template(template);
    let style = style.expect("templates are constants");
    style.with_key("rate", rate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};

    #[derive(Debug, thiserror::Error)]
    #[error("store: {0}")]
    struct Outer(#[from] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("file is\n  not a database")]
    struct Inner;

    #[test]
    fn a_cause_that_was_said_is_not_said_again() {
        assert_eq!(
            one_line(&Outer(Inner).into()),
            "store: file is, not a database"
        );
        let error = anyhow!("No such file").context("b.csv").context("import");
        assert_eq!(one_line(&error), "import: b.csv: No such file");
        let twice = Err::<(), _>(Inner).context("opening").unwrap_err();
        assert_eq!(one_line(&twice), "opening: file is, not a database");
    }
}
