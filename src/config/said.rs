//! What is wrong with a configuration that cannot be read, in the words of whoever wrote it: the file with its line, or the variable,
//! the key, and what is expected there. One line, whatever the parser says.

use figment::Source;
use figment::error::{Actual, Error, Kind};
use std::path::Path;

/// Reads the file and checks that it is TOML.
///
/// # Errors
/// No such file, one that cannot be read, or the place of the mistake.
pub fn check_file(file: &Path) -> Result<(), String> {
    let name = file.display();
    if !file.is_file() {
        return Err(format!("{name}: no such file"));
    }
    let text = std::fs::read_to_string(file).map_err(|error| format!("{name}: {error}"))?;
    let Err(error) = text.parse::<toml::Table>() else {
        return Ok(());
    };
    let before = text.get(..error.span().map_or(0, |span| span.start));
    let before = before.unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    let reason: Vec<&str> = error.message().lines().collect();
    let reason = reason.join(", ").replace('`', "\"");
    Err(format!("{name}, line {line}, column {column}: {reason}"))
}

/// Every mistake, one after the other.
pub fn mistakes(error: Error) -> String {
    let said: Vec<String> = error.into_iter().map(|error| mistake(&error)).collect();
    said.join("; ")
}

fn mistake(error: &Error) -> String {
    let (place, key) = place(error);
    let reason = match &error.kind {
        Kind::UnknownField(_, known) => format!("unknown; expected {}", known.join(", ")),
        Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
            format!("{} instead of {}", actual(found), plain(expected))
        }
        other => other.to_string().replace('\n', ", ").replace('`', "\""),
    };
    [&place, &key, &reason]
        .into_iter()
        .filter(|part| !part.is_empty())
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(": ")
}

/// Where the value stands, and under which key; a variable says both.
fn place(error: &Error) -> (String, String) {
    let mut path = error.path.clone();
    // The field itself is not part of the path, but where the parser says so.
    if let Kind::UnknownField(field, _) = &error.kind
        && path.last() != Some(field)
    {
        path.push(field.clone());
    }
    let metadata = error.metadata.as_ref();
    match metadata.and_then(|metadata| metadata.source.as_ref()) {
        Some(Source::File(file)) => (file.display().to_string(), path.join(".")),
        _ if metadata.is_some_and(|metadata| metadata.name.contains("environment")) => {
            let variable = format!("TIDEGATE_{}", path.join("__").to_uppercase());
            (variable, String::new())
        }
        _ => (String::new(), path.join(".")),
    }
}

fn actual(found: &Actual) -> String {
    match found {
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(value) => value.to_string(),
        Actual::Signed(value) => value.to_string(),
        Actual::Float(value) => value.to_string(),
        Actual::Str(value) => format!("{value:?}"),
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a table".to_owned(),
        other => other.to_string(),
    }
}

/// The parser's name of a kind of value, in words.
fn plain(expected: &str) -> &str {
    match expected {
        "u16" | "u32" | "u64" | "usize" => "a whole number from 0",
        "path string" => "a path",
        "a sequence" => "a list",
        other if other.starts_with("struct ") => "a table",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Overrides, RawConfig};

    fn refused(text: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, text).unwrap();
        let said = RawConfig::read(Some(&file), Overrides::default());
        let said = said.unwrap_err().to_string();
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(!said.contains('`') && !said.contains("default."), "{said}");
        let place = format!("config: {}", dir.path().join("c.toml").display());
        let rest = said.strip_prefix(&place);
        rest.unwrap_or_else(|| panic!("{said}")).to_owned()
    }

    #[test]
    fn a_mistake_in_the_syntax_is_told_by_line_and_column() {
        let said = refused("[store]\nqueue = = 5\n");
        assert!(said.starts_with(", line 2, column 9: "), "{said}");
    }

    #[test]
    fn an_unknown_key_is_told_with_those_that_are_there() {
        let said = refused("[store]\nqueeu = 5\n");
        assert!(
            said.starts_with(": store.queeu: unknown; expected url, queue, "),
            "{said}"
        );
        let said = refused("lisen = \"x\"\n");
        assert!(
            said.starts_with(": lisen: unknown; expected listen, "),
            "{said}"
        );
    }

    #[test]
    fn a_value_of_another_kind_is_told_with_the_kind_that_is_meant() {
        for (text, expected) in [
            (
                "[store]\nqueue = \"many\"\n",
                ": store.queue: \"many\" instead of a whole number from 0",
            ),
            (
                "[store]\nkeep_days = -1\n",
                ": store.keep_days: -1 instead of a whole number from 0",
            ),
            ("store = 5\n", ": store: 5 instead of a table"),
            ("listen = [1]\n", ": listen: a list instead of a string"),
        ] {
            assert_eq!(refused(text), expected);
        }
    }

    #[test]
    fn a_variable_is_told_by_its_name() {
        let error = figment::Figment::from(figment::providers::Serialized::defaults(
            RawConfig::default(),
        ))
        .merge(figment::providers::Env::raw().only(&[]).split("__"))
        .merge(("store.queue", "many"))
        .extract::<RawConfig>()
        .unwrap_err();
        let mut error = error;
        error.metadata = Some(figment::Metadata::named(
            "`TIDEGATE_` environment variable(s)",
        ));
        let said = super::mistakes(error);
        assert_eq!(
            said,
            "TIDEGATE_STORE__QUEUE: \"many\" instead of a whole number from 0"
        );
    }
}
