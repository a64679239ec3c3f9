//! Which database: `store.url` taken apart. A password never leaves this file in words.

use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnectOptions;
use std::path::{Path, PathBuf};

/// Name of the database in a data dir.
pub const FILE_NAME: &str = "tidegate.db";
/// What `store.url` may look like.
const EXPECTED: &str = "expected sqlite:PATH or postgres://user:password@host:port/database";

/// Parameters of a `postgres:` URL; others would be passed over without a word.
const PARAMETERS: &[&str] = &[
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// A URL that may hold a password: printed by `--print-config`, never by Debug.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// What was typed.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = self.0.split_once("://").map_or("", |(scheme, _)| scheme);
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
        return file(rest.strip_prefix("//").unwrap_or(rest));
    }
    let rest = ["postgres://", "postgresql://"]
        .iter()
        .find_map(|scheme| url.strip_prefix(scheme))
        .ok_or(EXPECTED)?;
    check_server(rest)?;
    let options = url.parse::<PgConnectOptions>();
    let options = options.map_err(|error| match error {
        sqlx::Error::Configuration(reason) => format!("{reason}; {EXPECTED}"),
        other => format!("{other}; {EXPECTED}"),
    })?;
    Ok(Database::Postgres(Box::new(options)))
}

fn file(path: &str) -> Result<Database, String> {
    if matches!(path, "" | ":memory:") {
        return Err("sqlite needs the path of a file".into());
    }
    if path.contains(['?', '#']) {
        return Err("sqlite takes no parameters: expected sqlite:PATH".into());
    }
    if path.ends_with('/') {
        return Err("sqlite needs the path of a file, not of a folder".into());
    }
    Ok(Database::Sqlite(path.into()))
}

/// A host, in the address or as a parameter, and no parameter that would be passed over.
fn check_server(rest: &str) -> Result<(), String> {
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = place.split('/').next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let keys = query.split('&').filter(|pair| !pair.is_empty());
    let keys: Vec<&str> = keys
        .map(|pair| pair.split('=').next().unwrap_or_default())
        .collect();
    // An escaped name is the parser's to judge.
    let unknown = |key: &&&str| !PARAMETERS.contains(*key) && !is_setting(key);
    if let Some(unknown) = keys.iter().find(unknown) {
        let known = PARAMETERS.join(", ");
        return Err(format!(
            "unknown parameter {unknown:?}; there are {known}, and options[NAME]"
        ));
    }
    let named = keys.iter().any(|key| matches!(*key, "host" | "hostaddr"));
    if !named && (host.is_empty() || host.starts_with(':')) {
        return Err(format!("no host; {EXPECTED}"));
    }
    Ok(())
}

/// A setting of the session, its brackets escaped or not.
fn is_setting(key: &str) -> bool {
    ["options[", "options%5B", "options%5b"]
        .iter()
        .any(|start| key.starts_with(start))
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
        for (url, reason) in [
            ("postgres://", "no host"),
            ("postgres://me:secret@/db", "no host"),
            ("postgres:///db?sslmode=prefer", "no host"),
            ("postgres://there/db?foo=bar", "unknown parameter \"foo\""),
            ("postgres://there/db?sslmod=require", "sslmode"),
            ("sqlite:q.db?mode=ro", "takes no parameters"),
            ("sqlite:data/", "not of a folder"),
        ] {
            let said = parsed(url).unwrap_err();
            assert!(said.contains(reason), "{url}: {said}");
            assert!(!said.contains("secret"), "{said}");
        }
        for url in [
            "postgres:///db?host=/var/run/postgresql",
            "postgres://there/db?options[search_path]=north&sslmode=prefer",
            "postgres://there?options%5Bsearch_path%5D=north",
        ] {
            assert!(parsed(url).is_ok(), "{url}");
        }
        let debug = format!("{:?}", SecretUrl::from("postgres://me:secret@there/db"));
        assert_eq!(debug, "postgres:..");
    }
}
