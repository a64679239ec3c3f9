//! Two versions of an endpoint side by side: their manifests, and what else is known of them.

use super::models::{entry, problem};
use super::{Problem, Shared};
use crate::registry::{ChangeError, Entry};
use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use utoipa::{IntoParams, ToSchema};

/// Which two to compare.
#[derive(Debug, Deserialize, IntoParams)]
pub struct DiffParameters {
    /// `model/version`.
    a: String,
    /// `model/version`.
    b: String,
}

/// What differs.
#[derive(Debug, Serialize, ToSchema)]
pub struct DiffBody {
    endpoint: String,
    a: String,
    b: String,
    /// By field; those of the manifest have its keys.
    differences: Vec<DifferenceBody>,
    /// Fields that are the same.
    same: usize,
}

/// One field.
#[derive(Debug, Serialize, ToSchema)]
struct DifferenceBody {
    field: String,
    /// `null`: not there.
    a: Option<String>,
    b: Option<String>,
}

/// Compares two versions of an endpoint.
#[utoipa::path(get, path = "/api/v1/models/{endpoint}/diff", params(("endpoint" = String, Path), DiffParameters),
    responses((status = 200, body = DiffBody), (status = 400, body = Problem), (status = 404, body = Problem)))]
pub async fn diff(
    site: Shared,
    path: Result<Path<String>, PathRejection>,
    parameters: Result<Query<DiffParameters>, QueryRejection>,
) -> Result<Json<DiffBody>, Problem> {
    let (Path(endpoint), Query(parameters)) = (path?, parameters?);
    let catalogue = site.registry.catalogue();
    let listed = catalogue.endpoints.get(&endpoint);
    let listed = listed.ok_or_else(|| problem(&ChangeError::UnknownEndpoint(endpoint.clone())))?;
    let fields = |name: &str| entry(&endpoint, listed, name).map(fields);
    let (a, b) = (fields(&parameters.a)?, fields(&parameters.b)?);
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let all = names.len();
    let differences: Vec<DifferenceBody> = names
        .into_iter()
        .filter(|name| a.get(*name) != b.get(*name))
        .map(|name| DifferenceBody {
            field: name.clone(),
            a: a.get(name).cloned(),
            b: b.get(name).cloned(),
        })
        .collect();
    Ok(Json(DiffBody {
        same: all - differences.len(),
        endpoint,
        a: parameters.a,
        b: parameters.b,
        differences,
    }))
}

/// Everything known of a version as texts by name.
fn fields(entry: &Entry) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    if let Ok(manifest) = entry.manifest.parse::<toml::Table>() {
        flatten("", &toml::Value::Table(manifest), &mut fields);
    }
    fields.insert("hash".into(), entry.hash.clone());
    fields.insert("status".into(), entry.status.as_str().into());
    fields.insert("ready".into(), entry.ready.to_string());
    for (name, bytes) in &entry.files {
        fields.insert(format!("files.{name}"), format!("{bytes} bytes"));
    }
    if let Some(served) = &entry.served {
        let version = &served.version;
        let bytes = version.state_len() * size_of::<f32>();
        fields.insert("state.bytes".into(), bytes.to_string());
        fields.insert("state.layout".into(), served.layout.to_string());
        fields.insert("step_us".into(), served.step_us().to_string());
    }
    fields
}

/// Tables by dotted keys; anything else as it is written.
fn flatten(prefix: &str, value: &toml::Value, into: &mut BTreeMap<String, String>) {
    let inside = |key: &str| match prefix {
        "" => key.to_owned(),
        prefix => format!("{prefix}.{key}"),
    };
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                flatten(&inside(key), value, into);
            }
        }
        toml::Value::Array(values) if values.iter().any(toml::Value::is_table) => {
            for (index, value) in values.iter().enumerate() {
                flatten(&format!("{prefix}[{index}]"), value, into);
            }
        }
        toml::Value::String(text) => _ = into.insert(prefix.to_owned(), text.clone()),
        value => _ = into.insert(prefix.to_owned(), value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_becomes_texts_by_dotted_keys() {
        let text = "name = \"m\"\n[training]\ndata = \"d\"\n[[preprocessing]]\nkind = \"clip\"\nlow = -8.0\n";
        let table: toml::Table = text.parse().unwrap();
        let mut fields = BTreeMap::new();
        flatten("", &toml::Value::Table(table), &mut fields);
        let told: Vec<_> = fields
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        let expected = [
            ("name", "m"),
            ("preprocessing[0].kind", "clip"),
            ("preprocessing[0].low", "-8.0"),
            ("training.data", "d"),
        ];
        assert_eq!(told, expected);
    }
}
