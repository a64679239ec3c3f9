//! A trace of system calls as `strace -f -xx` writes it, and the one question it is asked: was a reading synced when its ack left?
//!
//! Pure: text in, acks out. A call that another thread's call interrupts is written in two lines; it begins with the first and ends
//! with the second.

use super::frames::find;
use std::collections::{BTreeMap, BTreeSet};

/// The calls that are needed.
pub const CALLS: &str = "openat,close,write,writev,pwrite64,pwritev,sendto,sendmsg,fsync,fdatasync";

const UNFINISHED: &str = "<unfinished ...>";
const ACK: &[u8] = br#"{"type":"ack","seq":"#;

/// One end of a call.
enum Moment {
    Begins,
    Ends(i64),
}

/// A line: which process, which call, its text, and which of its ends.
struct Line<'t> {
    process: u32,
    call: &'t str,
    text: String,
    moments: Vec<Moment>,
}

/// An ack that left.
#[derive(Debug, PartialEq, Eq)]
pub struct Ack {
    pub seq: u64,
    /// Whether a sync of the write-ahead log began after the last write that carried the reading and returned before the ack left.
    pub synced: bool,
}

/// Every ack in a trace, by the markers of the readings: bytes that are in a write to the log if the reading is.
pub fn acks(trace: &str, markers: &[Vec<u8>]) -> Vec<Ack> {
    let mut reading = Reading {
        markers,
        logs: BTreeSet::new(),
        clock: 0,
        written: BTreeMap::new(),
        syncing: BTreeMap::new(),
        synced: 0,
        acks: Vec::new(),
    };
    let mut open = BTreeMap::new();
    for line in trace.lines().filter_map(|line| parse(line, &mut open)) {
        reading.take(&line);
    }
    reading.acks
}

/// What is known at a place in the trace.
struct Reading<'m> {
    markers: &'m [Vec<u8>],
    /// Descriptors of the write-ahead log.
    logs: BTreeSet<i64>,
    /// Counts the lines.
    clock: u64,
    /// When a reading was last written.
    written: BTreeMap<u64, u64>,
    /// When the sync that a process is in began.
    syncing: BTreeMap<u32, u64>,
    /// What was written before this is durable.
    synced: u64,
    acks: Vec<Ack>,
}

impl Reading<'_> {
    fn take(&mut self, line: &Line<'_>) {
        self.clock += 1;
        for moment in &line.moments {
            match (line.call, moment) {
                ("openat", Moment::Ends(fd)) => self.opened(&line.text, *fd),
                ("close", Moment::Begins) => _ = self.logs.remove(&descriptor(&line.text)),
                ("pwrite64" | "pwritev" | "write", Moment::Ends(_)) if self.is_log(line) => {
                    self.wrote(&line.text);
                }
                ("fsync" | "fdatasync", Moment::Begins) if self.is_log(line) => {
                    self.syncing.insert(line.process, self.clock);
                }
                ("fsync" | "fdatasync", Moment::Ends(0)) => {
                    let began = self.syncing.remove(&line.process);
                    self.synced = self.synced.max(began.unwrap_or(0));
                }
                ("write" | "writev" | "sendto" | "sendmsg", Moment::Begins) => {
                    self.said(&line.text);
                }
                _ => {}
            }
        }
    }

    fn is_log(&self, line: &Line<'_>) -> bool {
        self.logs.contains(&descriptor(&line.text))
    }

    fn opened(&mut self, text: &str, fd: i64) {
        if find(&bytes(text), b"tidegate.db-wal").is_some() {
            self.logs.insert(fd);
        }
    }

    fn wrote(&mut self, text: &str) {
        let bytes = bytes(text);
        for (seq, marker) in self.markers.iter().enumerate() {
            if find(&bytes, marker).is_some() {
                self.written.insert(seq as u64, self.clock);
            }
        }
    }

    fn said(&mut self, text: &str) {
        let bytes = bytes(text);
        let Some(at) = find(&bytes, ACK) else { return };
        let digits = bytes[at + ACK.len()..].iter();
        let digits = digits.take_while(|byte| byte.is_ascii_digit());
        let seq = digits.fold(0, |seq, digit| seq * 10 + u64::from(digit - b'0'));
        let written = self.written.get(&seq);
        let synced = written.is_some_and(|written| *written < self.synced);
        self.acks.push(Ack { seq, synced });
    }
}

/// Reads one line; the beginning of a call that another interrupts waits in `open` for its end.
fn parse<'t>(line: &'t str, open: &mut BTreeMap<u32, (&'t str, String)>) -> Option<Line<'t>> {
    let (process, rest) = line.trim_start().split_once(' ')?;
    let process = process.parse().ok()?;
    let rest = rest.trim_start();
    if let Some(resumed) = rest.strip_prefix("<... ") {
        let (call, text) = open.remove(&process)?;
        return Some(Line {
            process,
            call,
            text,
            moments: vec![Moment::Ends(result(resumed))],
        });
    }
    let (call, arguments) = rest.split_once('(')?;
    if let Some(arguments) = arguments.strip_suffix(UNFINISHED) {
        open.insert(process, (call, arguments.to_owned()));
        return Some(Line {
            process,
            call,
            text: arguments.to_owned(),
            moments: vec![Moment::Begins],
        });
    }
    Some(Line {
        process,
        call,
        text: arguments.to_owned(),
        moments: vec![Moment::Begins, Moment::Ends(result(arguments))],
    })
}

/// What a call returned; -1 where it says nothing of use.
fn result(text: &str) -> i64 {
    let value = text.rsplit_once(" = ").map(|(_, value)| value);
    let value = value.and_then(|value| value.split(' ').next());
    value.and_then(|value| value.parse().ok()).unwrap_or(-1)
}

/// The first argument.
fn descriptor(text: &str) -> i64 {
    let digits = text.split([',', ')']).next().unwrap_or_default();
    digits.trim().parse().unwrap_or(-1)
}

/// Every string among the arguments, one behind the other.
fn bytes(text: &str) -> Vec<u8> {
    let strings = text.split('"').skip(1).step_by(2);
    let codes = strings.flat_map(|string| string.split("\\x").skip(1));
    codes
        .filter_map(|code| u8::from_str_radix(code.get(..2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
    }

    fn trace(calls: &[&str]) -> String {
        let open = format!(
            "7 openat(AT_FDCWD, \"{}\", O_RDWR) = 9",
            hex(b"/d/tidegate.db-wal")
        );
        let write = format!("7 pwrite64(9, \"{}\", 4, 0) = 4", hex(b"mark"));
        let ack = format!(
            "8 sendto(5, \"{}\", 20, 0) = 20",
            hex(br#"{"type":"ack","seq":0}"#)
        );
        let line = |call: &&str| match *call {
            "write" => write.clone(),
            "ack" => ack.clone(),
            other => other.to_owned(),
        };
        let calls = calls.iter().map(line);
        std::iter::once(open)
            .chain(calls)
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn synced(calls: &[&str]) -> bool {
        let found = acks(&trace(calls), &[b"mark".to_vec()]);
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].synced
    }

    #[test]
    fn an_ack_behind_the_sync_of_its_reading_is_one() {
        assert!(synced(&["write", "7 fdatasync(9) = 0", "ack"]));
    }

    #[test]
    fn an_ack_without_before_or_within_the_sync_is_premature() {
        assert!(!synced(&["write", "ack"]));
        assert!(!synced(&["7 fdatasync(9) = 0", "write", "ack"]));
        let (begins, ends) = (
            "7 fdatasync(9 <unfinished ...>",
            "7 <... fdatasync resumed>) = 0",
        );
        assert!(!synced(&["write", begins, "ack", ends]));
        assert!(synced(&["write", begins, ends, "ack"]));
        assert!(!synced(&[begins, "write", ends, "ack"]));
    }

    #[test]
    fn the_sync_of_another_file_or_one_that_failed_does_not_count() {
        assert!(!synced(&["write", "7 fdatasync(4) = 0", "ack"]));
        assert!(!synced(&[
            "write",
            "7 fdatasync(9) = -1 EIO (Input/output error)",
            "ack"
        ]));
    }
}
