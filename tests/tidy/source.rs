//! Reads the repository for `tests/tidy.rs`: which files there are, what they import, what their code
//! says once comments and string literals are blanked. Text in, names out; no rule lives here.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders that hold no text of ours.
const NOT_OURS: &[&str] = &[
    ".git",
    "data",
    "dist",
    "node_modules",
    "playwright-report",
    "target",
    "test-results",
];

/// A Rust file of the repository.
pub struct RustFile {
    /// Relative to the root, with forward slashes.
    pub name: String,
    /// As it stands.
    pub text: String,
    /// The text with comments and string literals blanked.
    pub code: String,
}

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub fn name_of(path: &Path) -> String {
    let relative = path.strip_prefix(root()).unwrap_or(path);
    relative
        .to_string_lossy()
        .trim_start_matches("./")
        .replace('\\', "/")
}

pub fn rust_files(folders: &[&str]) -> Vec<RustFile> {
    let paths = folders
        .iter()
        .flat_map(|folder| files_below(&root().join(folder)));
    paths
        .filter(|path| path.extension().is_some_and(|end| end == "rs"))
        .filter_map(|path| Some((name_of(&path), fs::read_to_string(&path).ok()?)))
        .map(|(name, text)| RustFile {
            name,
            code: blank_comments_and_strings(&text),
            text,
        })
        .collect()
}

pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut files = Vec::new();
    for entry in entries
        .flatten()
        .filter(|entry| !NOT_OURS.iter().any(|dir| entry.file_name() == *dir))
    {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files.extend(files_below(&entry.path())),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
    files.sort();
    files
}

pub fn is_text(path: &Path) -> bool {
    const ENDS: [&str; 12] = [
        "conf", "css", "html", "js", "json", "md", "mjs", "rs", "svelte", "toml", "ts", "yaml",
    ];
    let end = path.extension().unwrap_or_default();
    ENDS.iter().any(|known| end == *known)
        || path.file_name().is_some_and(|name| name == "Dockerfile")
}

/// `src/session/state.rs` and `src/session.rs` belong to `session`.
pub fn top_module_of(file: &RustFile) -> String {
    let inside = file.name.trim_start_matches("src/");
    inside
        .split('/')
        .next()
        .unwrap_or_default()
        .trim_end_matches(".rs")
        .to_owned()
}

pub fn top_modules() -> BTreeSet<String> {
    rust_files(&["src"]).iter().map(top_module_of).collect()
}

/// The modules of `src/` that a file names through `crate::`, `tidegate::` or a `super::` that leaves
/// its own module.
pub fn imports(file: &RustFile, modules: &BTreeSet<String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for start in ["crate", "tidegate", "super"] {
        for rest in paths_from(&file.code, start) {
            found.extend(heads(rest));
        }
    }
    let own = |name: &String| is_submodule_of(file, name);
    found
        .into_iter()
        .filter(|name| modules.contains(name) && !own(name))
        .collect()
}

/// `super::health` inside `http/` is `http::health`, whatever `src/` holds beside it.
fn is_submodule_of(file: &RustFile, name: &str) -> bool {
    let folder = root().join("src").join(top_module_of(file));
    folder.join(format!("{name}.rs")).is_file() || folder.join(name).is_dir()
}

/// What follows each `start::` that begins a path.
fn paths_from<'a>(code: &'a str, start: &str) -> Vec<&'a str> {
    let pattern = format!("{start}::");
    let begins = |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    let hits = code.match_indices(&pattern).filter(|(at, _)| begins(*at));
    hits.map(|(at, _)| &code[at + pattern.len()..]).collect()
}

/// The first names of a path or of a brace group: `a::b` gives a; `{a::b, c::{d, e}}` gives a and c.
fn heads(path: &str) -> Vec<String> {
    let Some(group) = path.trim_start().strip_prefix('{') else {
        return vec![first_name(path)];
    };
    let mut depth = 0;
    let mut heads = vec![first_name(group)];
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.push(first_name(&group[at + 1..])),
            _ => {}
        }
    }
    heads
}

fn first_name(path: &str) -> String {
    path.trim_start()
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

pub fn names_crate(code: &str, name: &str) -> bool {
    let imported = [
        format!("use {name};"),
        format!("use {name} as"),
        format!("extern crate {name}"),
    ];
    !paths_from(code, name).is_empty() || imported.iter().any(|form| code.contains(form))
}

pub fn keys_of(manifest: &Path, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let text = fs::read_to_string(manifest).expect("the manifest exists");
    let mut section = String::new();
    let mut keys = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']').to_owned();
        } else if wanted(&section) && line.contains('=') && !line.starts_with('#') {
            keys.push(
                line.split(['=', '.', ' '])
                    .next()
                    .unwrap_or_default()
                    .to_owned(),
            );
        }
    }
    keys
}

/// Comments, string and character literals become spaces; line breaks stay.
fn blank_comments_and_strings(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let literal = literal_len(rest, code.chars().last());
        let (taken, left) = rest.split_at(if literal > 0 { literal } else { c.len_utf8() });
        if literal > 0 {
            code.extend(taken.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        } else {
            code.push(c);
        }
        rest = left;
    }
    code
}

/// Bytes of the comment or literal at the start of `rest`; 0 when it is code.
fn literal_len(rest: &str, before: Option<char>) -> usize {
    let after_name = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment_len(rest);
    }
    match rest.as_bytes()[0] {
        b'"' => quoted_len(rest),
        b'r' if !after_name || before == Some('b') => raw_string_len(rest),
        b'\'' => char_len(rest),
        _ => 0,
    }
}

fn block_comment_len(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        let tail = &rest.as_bytes()[at..];
        match (tail.starts_with(b"/*"), tail.starts_with(b"*/")) {
            (true, _) => (depth, at) = (depth + 1, at + 2),
            (_, true) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn quoted_len(rest: &str) -> usize {
    let mut escaped = true; // the opening quote does not close
    for (at, c) in rest.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// `r"…"`, `r#"…"#`; 0 for a name that starts with r, raw identifiers included.
fn raw_string_len(rest: &str) -> usize {
    let hashes = rest[1..].chars().take_while(|c| *c == '#').count();
    let open = 1 + hashes;
    if !rest[open..].starts_with('"') {
        return 0;
    }
    let close = format!("\"{}", "#".repeat(hashes));
    rest[open + 1..]
        .find(&close)
        .map_or(rest.len(), |at| open + 1 + at + close.len())
}

/// `'x'` and `'\n'`; 0 for a lifetime.
fn char_len(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some((at, _))) => {
            rest[at + 1..].find('\'').map_or(0, |end| at + 1 + end + 1)
        }
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 0,
    }
}

#[test]
fn the_reader_sees_code_only() {
    let text = r##"use crate::a; // crate::b
/* crate::c /* nested */ */ let s = "crate::d \" crate::e"; let r = r#"crate::f"#;
fn f<'a>(q: &'a str) -> char { '"' } use crate::{g::h, i::{j, k}, l};"##;
    let code = blank_comments_and_strings(text);
    let found: Vec<String> = paths_from(&code, "crate")
        .into_iter()
        .flat_map(heads)
        .collect();
    assert_eq!(found, ["a", "g", "i", "l"]);
    assert_eq!(code.lines().count(), text.lines().count());
}
