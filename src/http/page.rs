//! The dashboard, embedded in the binary.

use super::Problem;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use rust_embed::RustEmbed;

/// What `build.rs` put together: the built dashboard, or a page that says how to build it.
#[derive(RustEmbed)]
#[folder = "$OUT_DIR/page"]
struct Files;

/// Everything comes from this server; nothing may frame the page.
const POLICY: &str = "default-src 'self'; connect-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                      frame-ancestors 'none'; base-uri 'none'";

/// A file of the page; unknown paths are problems, not pages.
pub async fn file(uri: Uri) -> Response {
    let path = uri.path().trim_start_matches('/');
    let path = if path.is_empty() { "index.html" } else { path };
    let Some(file) = Files::get(path) else {
        return Problem::new(
            StatusCode::NOT_FOUND,
            "not_found",
            format!("there is nothing at {}", uri.path()),
        )
        .into_response();
    };
    // Built assets carry a hash in their names.
    let caching = if path.starts_with("assets/") {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    let headers = [
        (header::CONTENT_TYPE, file.metadata.mimetype().to_owned()),
        (header::CACHE_CONTROL, caching.to_owned()),
        (header::CONTENT_SECURITY_POLICY, POLICY.to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    (headers, file.data).into_response()
}
