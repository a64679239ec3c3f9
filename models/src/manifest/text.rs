//! TOML text to checked structs: unknown keys refused, every mistake told by its line or by the path of its field.

use serde::de::DeserializeOwned;

use super::Mistake;

/// TOML to `T`; a syntax mistake is told by its line, any other by the path of its field.
pub(crate) fn parse_toml<T: DeserializeOwned>(text: &str) -> Result<T, Mistake> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let before = error
            .span()
            .map_or("", |span| text.get(..span.start).unwrap_or(""));
        Mistake::new(
            format!("line {}", before.lines().count().max(1)),
            one_line(error.message()),
        )
    })?;
    from_table(table)
}

pub(crate) fn from_table<T: DeserializeOwned>(table: toml::Table) -> Result<T, Mistake> {
    serde_path_to_error::deserialize(toml::Value::Table(table)).map_err(|error| {
        let path = error.path().to_string();
        let reason = one_line(error.inner().message());
        // "missing field `x`" is reported at the parent: the path ends where the key would be.
        let field = match reason
            .strip_prefix("missing field `")
            .and_then(|rest| rest.split('`').next())
        {
            Some(key) if path == "." => key.to_owned(),
            Some(key) if !path.ends_with(key) => format!("{path}.{key}"),
            _ => path,
        };
        Mistake { field, reason }
    })
}

/// A table whose `kind` chooses what the rest of it means; `path` is where it stands.
pub(crate) fn kind_of(value: toml::Value, path: &str) -> Result<(String, toml::Table), Mistake> {
    let toml::Value::Table(mut table) = value else {
        return Err(Mistake::new(path, "is not a table"));
    };
    match table.remove("kind") {
        Some(toml::Value::String(kind)) => Ok((kind, table)),
        Some(_) => Err(Mistake::new(format!("{path}.kind"), "is not a string")),
        None => Err(Mistake::new(format!("{path}.kind"), "is missing")),
    }
}

/// The keys of `table` as a struct of their own; a mistake names the key below `path`.
pub(crate) fn parameters_of<T: DeserializeOwned>(
    table: toml::Table,
    path: &str,
    check: impl FnOnce(&T) -> Result<(), Mistake>,
) -> Result<T, Mistake> {
    let parameters: T = from_table(table).map_err(|mistake| mistake.inside(path))?;
    check(&parameters).map_err(|mistake| mistake.inside(path))?;
    Ok(parameters)
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}
