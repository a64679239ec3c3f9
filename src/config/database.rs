//! Which database: `store.url` taken apart. A password never leaves this file in words.

use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnectOptions;
use std::path::{Path, PathBuf};

/// Name of the database in a data dir.
pub const FILE_NAME: &str = "tidegate.db";
/// What `store.url` may look like.
const EXPECTED: &str = "expected sqlite:PATH or postgres://user:password@host:port/database";

/// A URL that may hold a password: printed by `--print-config`, never by Debug.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretUrl(String);

impl std::fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = self.0.split_once(':').map_or("", |(scheme, _)| scheme);
        write!(f, "{scheme}:..")
    }
}

impl<T: Into<String>> From<T> for SecretUrl {
    fn from(url: T) -> Self {
        Self(url.into())
    }
}

/// Where rows are stored. Its Debug and Display name the place without the password.
#[derive(Clone)]
pub enum Database {
    /// A file.
    Sqlite(PathBuf),
    /// A server.
    Postgres(Box<PgConnectOptions>),
}

impl std::fmt::Display for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sqlite(file) => write!(f, "sqlite:{}", file.display()),
            Self::Postgres(options) => {
                let user = options.get_username();
                let (host, port) = (options.get_host(), options.get_port());
                let database = options.get_database().unwrap_or(user);
                match options.get_socket() {
                    Some(socket) => write!(f, "postgres://{user}@{}/{database}", socket.display()),
                    None => write!(f, "postgres://{user}@{host}:{port}/{database}"),
                }
            }
        }
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// The database of `url`; without one, the file `tidegate.db` in `data_dir`.
///
/// # Errors
/// What is wrong with it, in words without the URL.
pub fn parse(url: Option<&SecretUrl>, data_dir: &Path) -> Result<Database, String> {
    let Some(SecretUrl(url)) = url else {
        return Ok(Database::Sqlite(data_dir.join(FILE_NAME)));
    };
    if let Some(rest) = url.strip_prefix("sqlite:") {
        let path = rest.strip_prefix("//").unwrap_or(rest);
        return match path {
            "" | ":memory:" => Err("sqlite needs the path of a file".into()),
            path => Ok(Database::Sqlite(path.into())),
        };
    }
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(EXPECTED.into());
    }
    let options = url.parse::<PgConnectOptions>();
    let options = options.map_err(|error| match error {
        sqlx::Error::Configuration(reason) => format!("{reason}; {EXPECTED}"),
        other => format!("{other}; {EXPECTED}"),
    })?;
    Ok(Database::Postgres(Box::new(options)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> Result<String, String> {
        let database = parse(Some(&url.into()), Path::new("data"))?;
        Ok(format!("{database:?} {database}"))
    }

    #[test]
    fn without_a_url_the_database_is_a_file_in_the_data_dir() {
        let database = parse(None, Path::new("data")).unwrap();
        assert_eq!(database.to_string(), "sqlite:data/tidegate.db");
    }

    #[test]
    fn a_file_may_lie_anywhere_but_not_in_memory() {
        assert_eq!(
            parsed("sqlite:a/b.db").unwrap(),
            "sqlite:a/b.db sqlite:a/b.db"
        );
        assert_eq!(
            parsed("sqlite:///a.db").unwrap(),
            "sqlite:/a.db sqlite:/a.db"
        );
        for refused in ["sqlite:", "sqlite://", "sqlite::memory:"] {
            assert!(parsed(refused).unwrap_err().contains("path"), "{refused}");
        }
    }

    #[test]
    fn a_server_is_named_without_its_password() {
        for scheme in ["postgres", "postgresql"] {
            let said = parsed(&format!("{scheme}://me:se%40cret@there:5433/readings")).unwrap();
            let named = "postgres://me@there:5433/readings";
            assert_eq!(said, format!("{named} {named}"));
        }
    }

    #[test]
    fn a_url_that_cannot_be_used_is_not_repeated() {
        for url in [
            "mysql://me:secret@there/db",
            "postgres://me:secret@there:port/db",
            "postgres://me:secret@there/db?sslmode=secret",
        ] {
            let said = parsed(url).unwrap_err();
            assert!(said.contains("postgres://user:password"), "{said}");
            assert!(!said.contains("me:secret"), "{said}");
        }
        let debug = format!("{:?}", SecretUrl::from("postgres://me:secret@there/db"));
        assert_eq!(debug, "postgres:..");
    }
}
