//! Where a device streams to: the server's or broker's address, the stream's names, how to write.
//!
//! Owns the forms of `--url` and `--mqtt-url`. Speaks no protocol itself.

use super::window::Limits;
use std::fmt;
use std::time::Duration;
use tidegate_protocol::{Codec, DeviceId, EndpointName};

/// Port of a broker whose URL names none.
const MQTT_PORT: u16 = 1883;

/// An address that cannot be used; the text says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Not one of the schemes that are spoken.
    #[error("{url:?}: expected ws://host:port or http://host:port")]
    Server {
        /// What was given.
        url: String,
    },
    /// Not a broker's address.
    #[error("{url:?}: expected mqtt://[user:password@]host[:port]")]
    Broker {
        /// What was given, without its password.
        url: String,
    },
}

/// A server's or a broker's address.
#[derive(Clone, PartialEq, Eq)]
pub enum Address {
    /// A Tidegate server, by WebSocket.
    Server {
        /// `host:port`.
        authority: String,
    },
    /// An MQTT broker that a Tidegate server listens to.
    Broker {
        /// Name or number of the host.
        host: String,
        /// TCP port.
        port: u16,
        /// User and password.
        login: Option<(String, String)>,
    },
}

impl Address {
    /// Reads `ws://host:port`; `http://` is taken as well, and a trailing slash.
    ///
    /// # Errors
    /// Another scheme, a path, or no host.
    pub fn server(url: &str) -> Result<Self, TargetError> {
        let refuse = || TargetError::Server {
            url: url.to_owned(),
        };
        let rest = url
            .strip_prefix("ws://")
            .or_else(|| url.strip_prefix("http://"))
            .ok_or_else(refuse)?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.is_empty() || authority.contains(['/', '?', '#', '@', ' ']) {
            return Err(refuse());
        }
        let has_port = authority
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = if has_port {
            authority.to_owned()
        } else {
            format!("{authority}:80")
        };
        Ok(Self::Server { authority })
    }

    /// Reads `mqtt://[user:password@]host[:port]`.
    ///
    /// # Errors
    /// Another scheme, a path, no host, or no port number.
    pub fn broker(url: &str) -> Result<Self, TargetError> {
        let (login, place) = split_login(url.strip_prefix("mqtt://").unwrap_or_default());
        let refuse = || TargetError::Broker {
            url: format!("mqtt://{place}"),
        };
        let place = place.strip_suffix('/').unwrap_or(place);
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| refuse())?),
            None => (place, MQTT_PORT),
        };
        if host.is_empty() || host.contains(['/', '?', '#', ' ']) {
            return Err(refuse());
        }
        Ok(Self::Broker {
            host: host.to_owned(),
            port,
            login,
        })
    }
}

fn split_login(rest: &str) -> (Option<(String, String)>, &str) {
    match rest.rsplit_once('@') {
        Some((login, place)) => {
            let (user, password) = login.split_once(':').unwrap_or((login, ""));
            (Some((user.to_owned(), password.to_owned())), place)
        }
        None => (None, rest),
    }
}

/// The address without its password, as errors and logs show it.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server { authority } => write!(f, "ws://{authority}"),
            Self::Broker { host, port, .. } => write!(f, "mqtt://{host}:{port}"),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// One stream of one device.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where it is sent.
    pub address: Address,
    /// The prediction task.
    pub endpoint: EndpointName,
    /// Who sends.
    pub device: DeviceId,
    /// The epoch; `None` takes the server's current one (0 over MQTT).
    pub epoch: Option<u64>,
    /// Back-fills into the stream of this epoch, beside the live one; WebSocket only.
    pub import: Option<u64>,
    /// How messages are written.
    pub codec: Codec,
    /// Pins the stream to `model/version`; WebSocket only.
    pub version: Option<String>,
    /// Bounds and patience.
    pub options: Options,
}

impl Target {
    /// A stream with JSON, the server's epoch and the usual bounds.
    pub fn new(address: Address, endpoint: EndpointName, device: DeviceId) -> Self {
        Self {
            address,
            endpoint,
            device,
            epoch: None,
            import: None,
            codec: Codec::Json,
            version: None,
            options: Options::default(),
        }
    }

    /// Path and query of the stream's WebSocket. The names' forms need no escaping.
    pub(super) fn path(&self) -> String {
        let mut path = format!("/v1/stream/{}?device={}", self.endpoint, self.device);
        if let Some(epoch) = self.epoch {
            path.push_str(&format!("&epoch={epoch}"));
        }
        if let Some(import) = self.import {
            path.push_str(&format!("&import={import}"));
        }
        if let Some(version) = &self.version {
            path.push_str(&format!("&version={version}"));
        }
        path
    }
}

/// Bounds and patience of a stream.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How many readings may be unsettled and unanswered.
    pub limits: Limits,
    /// A connection that owes answers and says nothing for this long is cut and made anew.
    pub answer_timeout: Duration,
    /// Without any answer for this long, over all tries, the stream gives up.
    pub give_up_after: Duration,
    /// After a stop, how long answers are still awaited.
    pub drain: Duration,
    /// Send what the server says it holds too, so that every reading is answered by itself.
    pub resend: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            answer_timeout: Duration::from_secs(15),
            give_up_after: Duration::from_secs(60),
            drain: Duration::from_secs(3),
            resend: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_by_ws_or_http() {
        for url in ["ws://127.0.0.1:8080", "http://127.0.0.1:8080/"] {
            assert_eq!(
                Address::server(url).unwrap().to_string(),
                "ws://127.0.0.1:8080"
            );
        }
        assert_eq!(
            Address::server("ws://rig.local").unwrap().to_string(),
            "ws://rig.local:80"
        );
        assert_eq!(
            Address::server("ws://[::1]:9").unwrap().to_string(),
            "ws://[::1]:9"
        );
        for url in [
            "",
            "ws://",
            "127.0.0.1:8080",
            "wss://a:1",
            "ws://a:1/v1",
            "ws://u@a:1",
        ] {
            assert!(Address::server(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_broker_may_have_a_login_that_is_never_shown() {
        let broker = Address::broker("mqtt://ann:s:ecret@broker:1884").unwrap();
        assert_eq!(
            format!("{broker} {broker:?}"),
            "mqtt://broker:1884 mqtt://broker:1884"
        );
        let Address::Broker { login, .. } = broker else {
            panic!()
        };
        assert_eq!(login, Some(("ann".into(), "s:ecret".into())));
        assert_eq!(
            Address::broker("mqtt://broker").unwrap().to_string(),
            "mqtt://broker:1883"
        );
        for url in ["", "mqtt://", "mqtts://a", "mqtt://a:port", "mqtt://a/b"] {
            assert!(Address::broker(url).is_err(), "{url}");
        }
        let refused = Address::broker("mqtt://ann:secret@:x")
            .unwrap_err()
            .to_string();
        assert!(!refused.contains("secret"), "{refused}");
    }

    #[test]
    fn the_path_names_the_stream() {
        let address = Address::server("ws://a:1").unwrap();
        let mut target = Target::new(
            address,
            "pump-health".parse().unwrap(),
            "rig-1".parse().unwrap(),
        );
        assert_eq!(target.path(), "/v1/stream/pump-health?device=rig-1");
        target.epoch = Some(3);
        target.version = Some("mewma/1.0.0".into());
        assert_eq!(
            target.path(),
            "/v1/stream/pump-health?device=rig-1&epoch=3&version=mewma/1.0.0"
        );
        (target.import, target.version) = (Some(3), None);
        assert_eq!(
            target.path(),
            "/v1/stream/pump-health?device=rig-1&epoch=3&import=3"
        );
    }
}
