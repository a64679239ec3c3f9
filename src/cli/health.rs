//! `tidegate health`: is the server ready? For container health checks, where no other HTTP client is at hand.
//!
//! One GET of `/health/ready` over a plain socket within two seconds; says one line, with the parts of a server that is not ready, and answers
//! with the exit code.

use super::ask::{Answer, ask};
use anyhow::bail;
use clap::Args;
use std::process::ExitCode;
use std::time::Duration;

/// Longest wait for the answer.
const DEADLINE: Duration = Duration::from_secs(2);

/// Ask a server whether it is ready; exits with 0 when it is.
#[derive(Debug, Clone, Args)]
pub struct HealthArgs {
    /// The server.
    #[arg(long, env = "TIDEGATE_URL", default_value = "http://127.0.0.1:8080")]
    pub url: String,
}

/// Runs the command.
///
/// # Errors
/// None: a server that cannot be asked is not ready, which is an answer.
pub async fn run(args: HealthArgs) -> anyhow::Result<ExitCode> {
    let answer = ask(&args.url, "GET", "/health/ready", DEADLINE).await;
    match answer.and_then(|answer| judge(&answer)) {
        Ok(()) => {
            println!("{}: ready", args.url);
            Ok(ExitCode::SUCCESS)
        }
        Err(reason) => {
            println!("{}: not ready: {}", args.url, super::one_line(&reason));
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Ready is status 200.
fn judge(answer: &Answer) -> anyhow::Result<()> {
    match answer.status() {
        Some(200) => Ok(()),
        Some(_) => bail!("{}", parts(answer).unwrap_or_else(|| answer.line.clone())),
        None => bail!("no HTTP answer"),
    }
}

/// The parts that readiness depends on, as the body names them; `None` where it is another body.
fn parts(answer: &Answer) -> Option<String> {
    let mut parts = Vec::new();
    for name in ["store", "mqtt"] {
        let part = answer.field(name)?;
        parts.push(format!("{name}: {}", part.as_str()?));
    }
    if answer.field("stopping")?.as_bool()? {
        parts.push("stopping".to_owned());
    }
    Some(parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// A server that answers one request.
    async fn answer_with(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let read = socket.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /health/ready HTTP/1.1\r\n"));
            socket.write_all(answer.as_bytes()).await.unwrap();
        });
        url
    }

    async fn code_of(url: String) -> ExitCode {
        run(HealthArgs { url }).await.unwrap()
    }

    #[tokio::test]
    async fn ready_is_zero_and_anything_else_is_not() {
        let ready = answer_with("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(code_of(ready).await, ExitCode::SUCCESS);
        for answer in [
            "HTTP/1.1 503 Service Unavailable\r\n\r\n",
            "SSH-2.0\r\n",
            "",
        ] {
            let url = answer_with(answer).await;
            assert_eq!(code_of(url).await, ExitCode::FAILURE, "{answer}");
        }
    }

    #[test]
    fn a_server_that_is_not_ready_says_which_part() {
        let said = |body: &str| {
            let answer = Answer {
                line: "HTTP/1.1 503 Service Unavailable".into(),
                body: body.into(),
            };
            judge(&answer).unwrap_err().to_string()
        };
        let body =
            r#"{"ready":false,"store":"full","synchronous":"full","mqtt":"off","stopping":false}"#;
        assert_eq!(said(body), "store: full, mqtt: off");
        let body = r#"{"ready":false,"store":"ok","mqtt":"connected","stopping":true}"#;
        assert_eq!(said(body), "store: ok, mqtt: connected, stopping");
        assert_eq!(said("a proxy's page"), "HTTP/1.1 503 Service Unavailable");
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_not_ready() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        assert_eq!(code_of(url).await, ExitCode::FAILURE);
        assert_eq!(code_of("localhost".into()).await, ExitCode::FAILURE);
    }
}
