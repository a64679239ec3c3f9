//! Names and numbers that every part agrees on: endpoints, devices, and integers that survive JSON.
//!
//! Owns the forms (`[a-z0-9-]{1,64}`, `[A-Za-z0-9._:-]{1,128}`, at most 2^53-1). A value of these types is valid by
//! construction and cheap to clone (the text is shared).

use std::fmt;
use std::sync::Arc;

/// Largest epoch, seq or id: the largest integer that JSON readers keep exactly.
pub const MAX_NUMBER: u64 = (1 << 53) - 1;
/// Longest endpoint or model name, in bytes.
pub const MAX_NAME_BYTES: usize = 64;
/// Longest device id, in bytes.
pub const MAX_DEVICE_BYTES: usize = 128;

/// Words of the HTTP API which no endpoint may take as its name.
pub const RESERVED_NAMES: &[&str] = &[
    "audit",
    "devices",
    "endpoints",
    "experiments",
    "feedback",
    "models",
    "predict",
    "samples",
];

/// Why a name was refused; tell the sender, it will not become valid by itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not `[a-z0-9-]{1,64}`.
    #[error("endpoint {0:?}: expected 1-64 characters of a-z, 0-9 and -")]
    Endpoint(String),
    /// A word of the API.
    #[error("endpoint {0:?}: the name is reserved for the API")]
    Reserved(String),
    /// Not `[A-Za-z0-9._:-]{1,128}`.
    #[error("device {0:?}: expected 1-128 characters of A-Z, a-z, 0-9 and . _ : -")]
    Device(String),
}

macro_rules! shared_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }
    };
}

shared_name! {
    /// The name of a prediction task, `[a-z0-9-]{1,64}` and no word of the API.
    EndpointName
}

shared_name! {
    /// Who sends readings: 1-128 characters of `[A-Za-z0-9._:-]`.
    DeviceId
}

impl EndpointName {
    /// Checks form and reserved words.
    pub fn new(text: &str) -> Result<Self, IdError> {
        if !is_name(text) {
            return Err(IdError::Endpoint(excerpt(text)));
        }
        if RESERVED_NAMES.contains(&text) {
            return Err(IdError::Reserved(text.to_owned()));
        }
        Ok(Self(text.into()))
    }
}

impl DeviceId {
    /// Checks the form.
    pub fn new(text: &str) -> Result<Self, IdError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
        let fits = (1..=MAX_DEVICE_BYTES).contains(&text.len());
        if !fits || !text.bytes().all(allowed) {
            return Err(IdError::Device(excerpt(text)));
        }
        Ok(Self(text.into()))
    }
}

/// Whether `text` has the form of an endpoint or model name.
pub fn is_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(allowed)
}

/// At most 64 characters of what a peer sent, so that an error never echoes a whole frame.
fn excerpt(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_api_are_no_endpoints() {
        for word in RESERVED_NAMES {
            assert_eq!(
                EndpointName::new(word),
                Err(IdError::Reserved((*word).to_owned()))
            );
        }
        assert!(EndpointName::new("pump-health").is_ok());
    }

    #[test]
    fn forms_are_kept_at_their_limits() {
        assert!(EndpointName::new(&"a".repeat(64)).is_ok());
        assert!(EndpointName::new(&"a".repeat(65)).is_err());
        assert!(EndpointName::new("Pump").is_err());
        assert!(EndpointName::new("").is_err());
        assert!(DeviceId::new(&"x".repeat(128)).is_ok());
        assert!(DeviceId::new(&"x".repeat(129)).is_err());
        assert!(DeviceId::new("rig 1").is_err());
        assert!(DeviceId::new("rig/1").is_err());
        assert!(DeviceId::new("Rig_1.a:b-c").is_ok());
    }
}
