//! Rules of alerts and webhooks, checked: what `[[alerts]]`, `[[webhooks]]` and the HTTP API may say.
//!
//! A rule names what it watches, where, how much is too much and for how long. Every limit has bounds; a mistake names rule and field.

use super::raw::{RawAlert, RawWebhook};
use std::collections::BTreeSet;
use std::time::Duration;
use tidegate_protocol::id::is_name;
use tidegate_protocol::{DeviceId, EndpointName};

/// Most rules of a file; as many again may come over HTTP.
pub const MOST_RULES: usize = 200;
/// Most webhooks.
const MOST_WEBHOOKS: usize = 16;
/// Longest time that a rule may ask for, seconds.
const MOST_SECONDS: u32 = 30 * 86_400;
/// Least length of a webhook's secret, bytes: shorter ones are guessed.
const LEAST_SECRET: usize = 16;

/// What a rule watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AlertKind {
    /// The model calls a device's readings anomalies.
    Anomaly,
    /// A device's score is over a limit.
    Score,
    /// A device says nothing.
    Silent,
    /// The oldest reading that is not committed is too old.
    StoreLag,
    /// The writer's queue is nearly full.
    Queue,
    /// Readings or answers of an endpoint are not distributed as they were.
    Drift,
    /// A guardrail of an experiment is broken.
    Guardrail,
}

impl AlertKind {
    /// Kinds that a rule may name: those of which this server knows how they are.
    pub const ALL: [Self; 5] = [
        Self::Anomaly,
        Self::Score,
        Self::Silent,
        Self::StoreLag,
        Self::Queue,
    ];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Anomaly => "anomaly",
            Self::Score => "score",
            Self::Silent => "silent",
            Self::StoreLag => "store_lag",
            Self::Queue => "queue",
            Self::Drift => "drift",
            Self::Guardrail => "guardrail",
        }
    }

    /// Whether it is about the server, so that a rule names no endpoint.
    pub fn is_of_server(self) -> bool {
        matches!(self, Self::StoreLag | Self::Queue)
    }

    /// Whether it is about single devices.
    pub fn is_of_device(self) -> bool {
        matches!(self, Self::Anomaly | Self::Score | Self::Silent)
    }

    /// Whether a rule of it says how much is too much.
    fn has_limit(self) -> bool {
        matches!(self, Self::Score | Self::StoreLag | Self::Queue)
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know.
    Info,
    /// Look at it today.
    Warning,
    /// Look at it now.
    Critical,
}

impl Severity {
    const ALL: [Self; 3] = [Self::Info, Self::Warning, Self::Critical];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// A rule that code may rely on.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertRule {
    /// Its name: unique.
    pub name: String,
    /// What it watches.
    pub kind: AlertKind,
    /// Only this endpoint.
    pub endpoint: Option<EndpointName>,
    /// Only this device.
    pub device: Option<DeviceId>,
    /// At or over it is too much; without meaning for kinds that have no limit.
    pub above: f64,
    /// Below it is well again; never more than `above`.
    pub clear_below: f64,
    /// How long too much lasts before it is an alert, ms.
    pub hold_ms: i64,
    /// How long it is well before the alert is over, ms.
    pub clear_ms: i64,
    /// How bad it is.
    pub severity: Severity,
}

impl AlertRule {
    /// Checks what was typed.
    ///
    /// # Errors
    /// The first mistake, with its field.
    pub fn check(raw: &RawAlert) -> Result<Self, String> {
        if !is_name(&raw.name) {
            let name: String = raw.name.chars().take(64).collect();
            return Err(format!(
                "name {name:?}: expected 1-64 characters of a-z, 0-9 and -"
            ));
        }
        let kind = AlertKind::ALL
            .into_iter()
            .find(|kind| kind.as_str() == raw.kind);
        let kind = kind.ok_or_else(|| {
            let known = AlertKind::ALL.map(AlertKind::as_str).join(", ");
            format!("kind {:?}: expected one of {known}", raw.kind)
        })?;
        let severity = Severity::ALL
            .into_iter()
            .find(|severity| severity.as_str() == raw.severity);
        let severity = severity.ok_or_else(|| {
            format!(
                "severity {:?}: expected info, warning or critical",
                raw.severity
            )
        })?;
        let (endpoint, device) = subject(kind, raw)?;
        let (above, clear_below) = limits(kind, raw)?;
        let clear_s = raw.clear_for_s.unwrap_or(raw.for_s);
        for (field, value) in [("for_s", raw.for_s), ("clear_for_s", clear_s)] {
            if value > MOST_SECONDS {
                return Err(format!("{field} {value}: expected at most {MOST_SECONDS}"));
            }
        }
        if kind == AlertKind::Silent && raw.for_s == 0 {
            return Err(
                "for_s: a silent rule says after how many seconds without a reading".into(),
            );
        }
        Ok(Self {
            name: raw.name.clone(),
            kind,
            endpoint,
            device,
            above,
            clear_below,
            hold_ms: i64::from(raw.for_s) * 1_000,
            clear_ms: i64::from(clear_s) * 1_000,
            severity,
        })
    }
}

type Subject = (Option<EndpointName>, Option<DeviceId>);

fn subject(kind: AlertKind, raw: &RawAlert) -> Result<Subject, String> {
    if kind.is_of_server() && raw.endpoint.is_some() {
        return Err(format!(
            "endpoint: a rule of kind {} is about the server",
            kind.as_str()
        ));
    }
    if !kind.is_of_device() && raw.device.is_some() {
        return Err(format!(
            "device: a rule of kind {} is about no single device",
            kind.as_str()
        ));
    }
    let endpoint = raw.endpoint.as_deref().map(EndpointName::new).transpose();
    let device = raw.device.as_deref().map(DeviceId::new).transpose();
    Ok((
        endpoint.map_err(|error| format!("endpoint: {error}"))?,
        device.map_err(|error| format!("device: {error}"))?,
    ))
}

fn limits(kind: AlertKind, raw: &RawAlert) -> Result<(f64, f64), String> {
    if !kind.has_limit() {
        return match (raw.above, raw.clear_below) {
            (None, None) => Ok((0.0, 0.0)),
            _ => Err(format!(
                "above, clear_below: a rule of kind {} has no limit of its own",
                kind.as_str()
            )),
        };
    }
    let unit = match kind {
        AlertKind::StoreLag => "seconds",
        AlertKind::Queue => "a share from 0 to 1",
        _ => "a score",
    };
    let above = raw
        .above
        .ok_or_else(|| format!("above: expected {unit}: how much is too much"))?;
    let clear_below = raw.clear_below.unwrap_or(above);
    let is_share = kind != AlertKind::Queue || (above > 0.0 && above <= 1.0);
    if !above.is_finite() || !clear_below.is_finite() || !is_share {
        return Err(format!("above {above}: expected {unit}"));
    }
    if clear_below > above {
        return Err(format!(
            "clear_below {clear_below}: expected at most above ({above})"
        ));
    }
    Ok((above, clear_below))
}

/// Where alerts are sent.
#[derive(Clone)]
pub struct Webhook {
    /// Its name in logs and metrics.
    pub name: String,
    /// `http` or `https`.
    pub is_tls: bool,
    /// Host.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query, from `/`.
    pub path: String,
    /// Signs the body.
    pub secret: String,
    /// Only alerts at least as bad.
    pub least: Severity,
    /// Alerts that may wait; one more is left out (counted).
    pub queue: usize,
    /// That one try may take.
    pub timeout: Duration,
    /// How long one is tried before it is left out.
    pub give_up: Duration,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A path may hold a token.
        write!(f, "{} at {}:{}", self.name, self.host, self.port)
    }
}

impl Webhook {
    fn check(raw: &RawWebhook) -> Result<Self, String> {
        if !is_name(&raw.name) {
            return Err(format!(
                "name {:?}: expected 1-64 characters of a-z, 0-9 and -",
                raw.name
            ));
        }
        let url = raw.url.reveal();
        let expected = "url: expected http://host[:port][/path] or https://...";
        let (scheme, rest) = url.split_once("://").ok_or(expected)?;
        let is_tls = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(expected.into()),
        };
        let split = rest.find('/').unwrap_or(rest.len());
        let (address, path) = rest.split_at(split);
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| expected)?),
            None => (address, if is_tls { 443 } else { 80 }),
        };
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if host.is_empty() || !is_plain(rest) || host.contains(['@', '?', '#']) {
            return Err(expected.into());
        }
        let secret = raw.secret.reveal();
        if secret.len() < LEAST_SECRET {
            return Err(format!(
                "secret: expected at least {LEAST_SECRET} bytes: it signs what is sent"
            ));
        }
        let least = Severity::ALL
            .into_iter()
            .find(|severity| severity.as_str() == raw.severity);
        Ok(Self {
            name: raw.name.clone(),
            is_tls,
            host: host.to_owned(),
            port,
            path: if path.is_empty() { "/" } else { path }.to_owned(),
            secret: secret.to_owned(),
            least: least.ok_or("severity: expected info, warning or critical")?,
            queue: within("queue", raw.queue as u64, 1, 100_000)? as usize,
            timeout: Duration::from_secs(within("timeout_s", raw.timeout_s.into(), 1, 120)?),
            give_up: Duration::from_secs(within("give_up_s", raw.give_up_s.into(), 1, 86_400)?),
        })
    }
}

fn within(field: &str, value: u64, least: u64, most: u64) -> Result<u64, String> {
    let fits = (least..=most).contains(&value);
    fits.then_some(value)
        .ok_or_else(|| format!("{field} {value}: expected {least} to {most}"))
}

/// Checks every rule and every webhook; a line for each that cannot be used.
pub fn check(
    rules: &[RawAlert],
    webhooks: &[RawWebhook],
    problems: &mut Vec<String>,
) -> (Vec<(AlertRule, RawAlert)>, Vec<Webhook>) {
    let with_raw = |raw: &RawAlert| Ok((AlertRule::check(raw)?, raw.clone()));
    let rules = check_all("alerts", rules, MOST_RULES, with_raw, problems);
    let webhooks = check_all(
        "webhooks",
        webhooks,
        MOST_WEBHOOKS,
        Webhook::check,
        problems,
    );
    twice("alerts", rules.iter().map(|(rule, _)| &rule.name), problems);
    twice("webhooks", webhooks.iter().map(|hook| &hook.name), problems);
    (rules, webhooks)
}

fn check_all<R, T>(
    what: &str,
    raw: &[R],
    most: usize,
    check: impl Fn(&R) -> Result<T, String>,
    problems: &mut Vec<String>,
) -> Vec<T> {
    if raw.len() > most {
        problems.push(format!("{what}: at most {most} are allowed"));
        return Vec::new();
    }
    let mut checked = Vec::new();
    for (index, one) in raw.iter().enumerate() {
        match check(one) {
            Ok(one) => checked.push(one),
            Err(reason) => problems.push(format!("{what}[{index}].{reason}")),
        }
    }
    checked
}

fn twice<'a>(what: &str, names: impl Iterator<Item = &'a String>, problems: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            problems.push(format!("{what}: {name:?} is there twice"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(kind: &str) -> RawAlert {
        RawAlert {
            name: "r".into(),
            kind: kind.into(),
            ..RawAlert::default()
        }
    }

    #[test]
    fn a_mistake_in_a_rule_names_its_field() {
        let cases: [(RawAlert, &str); 9] = [
            (rule("nothing"), "kind"),
            (rule("score"), "above"),
            (rule("silent"), "for_s"),
            (
                RawAlert {
                    above: Some(2.0),
                    ..rule("queue")
                },
                "above 2",
            ),
            (
                RawAlert {
                    above: Some(1.0),
                    ..rule("anomaly")
                },
                "no limit of its own",
            ),
            (
                RawAlert {
                    above: Some(1.0),
                    clear_below: Some(2.0),
                    ..rule("score")
                },
                "clear_below 2",
            ),
            (
                RawAlert {
                    endpoint: Some("pump-health".into()),
                    above: Some(1.0),
                    ..rule("store_lag")
                },
                "endpoint",
            ),
            (
                RawAlert {
                    device: Some("a".into()),
                    above: Some(1.0),
                    ..rule("store_lag")
                },
                "device",
            ),
            (
                RawAlert {
                    name: "No Name".into(),
                    ..rule("anomaly")
                },
                "name",
            ),
        ];
        for (raw, part) in cases {
            let said = AlertRule::check(&raw).unwrap_err();
            assert!(said.contains(part), "{said}");
        }
        let rule = AlertRule::check(&RawAlert {
            above: Some(0.9),
            for_s: 5,
            ..rule("score")
        });
        let rule = rule.unwrap();
        assert_eq!(
            (rule.clear_below, rule.hold_ms, rule.clear_ms),
            (0.9, 5_000, 5_000)
        );
    }

    #[test]
    fn a_webhook_is_taken_apart_and_never_shows_its_path_or_secret() {
        let raw = |url: &str| RawWebhook {
            name: "ops".into(),
            url: url.into(),
            secret: "0123456789abcdef".into(),
            ..RawWebhook::default()
        };
        let hook = Webhook::check(&raw("https://hooks.example:8443/in?token=t0k")).unwrap();
        assert_eq!(
            (hook.is_tls, &*hook.host, hook.port, &*hook.path),
            (true, "hooks.example", 8443, "/in?token=t0k")
        );
        let shown = format!("{hook:?} {:?}", raw("https://hooks.example/t0k"));
        assert!(
            !shown.contains("t0k") && !shown.contains("abcdef"),
            "{shown}"
        );
        for url in ["ftp://a", "http://", "http://a b/", "http://u@h/", "h"] {
            assert!(Webhook::check(&raw(url)).is_err(), "{url}");
        }
        let short = RawWebhook {
            secret: "short".into(),
            ..raw("http://a")
        };
        assert!(Webhook::check(&short).unwrap_err().starts_with("secret"));
    }

    #[test]
    fn a_name_that_is_there_twice_is_refused() {
        let mut problems = Vec::new();
        check(&[rule("anomaly"), rule("anomaly")], &[], &mut problems);
        assert_eq!(problems, ["alerts: \"r\" is there twice"]);
    }
}
