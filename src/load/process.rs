//! What the kernel tells: CPU time and memory of a server by its pid, CPU time of this thread, how many files may be open, which core to run on.
//!
//! Reads `/proc`; Linux only.

use rustix::process::{Pid, Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::Serialize;
use std::time::Duration;

/// Files a process needs beside its connections.
const OTHER_FILES: u64 = 64;

/// A process at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Usage {
    /// CPU time in user space so far, s.
    pub user_s: f64,
    /// CPU time in the kernel so far, s.
    pub system_s: f64,
    /// Resident memory, bytes.
    pub rss_bytes: u64,
    /// Its own memory and its share of what it shares, bytes; `None` where the kernel does not tell.
    pub pss_bytes: Option<u64>,
}

impl Usage {
    /// Of process `pid`.
    ///
    /// # Errors
    /// No such process, for people.
    pub fn of(pid: u32) -> Result<Self, String> {
        let (user_s, system_s) = cpu(pid)?;
        let text = read(pid, "status")?;
        Ok(Self {
            user_s,
            system_s,
            rss_bytes: kib(&text, "VmRSS:").unwrap_or_default(),
            pss_bytes: read(pid, "smaps_rollup")
                .ok()
                .and_then(|text| kib(&text, "Pss:")),
        })
    }

    /// The memory that is compared: proportional where it is told, else resident.
    pub fn memory(&self) -> u64 {
        self.pss_bytes.unwrap_or(self.rss_bytes)
    }
}

/// User and system time of process `pid` so far, s; the kernel counts in ticks of 10 ms.
///
/// # Errors
/// No such process, for people.
pub fn cpu(pid: u32) -> Result<(f64, f64), String> {
    let stat = read(pid, "stat")?;
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = |field: usize| {
        let text = after_name.split_whitespace().nth(field);
        text.and_then(|text| text.parse::<u64>().ok())
            .unwrap_or_default() as f64
            / rustix::param::clock_ticks_per_second() as f64
    };
    Ok((ticks(11), ticks(12)))
}

fn read(pid: u32, file: &str) -> Result<String, String> {
    let path = format!("/proc/{pid}/{file}");
    std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))
}

fn kib(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = rest.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// CPU time of the calling thread so far.
pub fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), nanos)
}

/// Raises the soft limit of open files as far as `connections` need.
///
/// # Errors
/// The hard limit is lower, for people.
pub fn allow_files(connections: usize) -> Result<(), String> {
    let needed = connections as u64 + OTHER_FILES;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|soft| soft >= needed) {
        return Ok(());
    }
    if limit.maximum.is_some_and(|hard| hard < needed) {
        let hard = limit.maximum.unwrap_or_default();
        return Err(format!(
            "{connections} connections need {needed} open files and the hard limit is {hard}: \
             raise it (`ulimit -n {needed}` as root, or LimitNOFILE), or open fewer"
        ));
    }
    let wanted = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, wanted).map_err(|error| {
        format!("{connections} connections need {needed} open files: `ulimit -n {needed}`: {error}")
    })
}

/// Keeps the calling thread on one core.
///
/// # Errors
/// No such core, for people.
pub fn stay_on(core: usize) -> Result<(), String> {
    if core >= CpuSet::MAX_CPU {
        return Err(format!("core {core}: there is none"));
    }
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None::<Pid>, &set).map_err(|error| format!("core {core}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_a_dead_one_has_none() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.rss_bytes > 0 && usage.memory() > 0, "{usage:?}");
        assert!(Usage::of(u32::MAX).unwrap_err().contains("/proc/"));
    }

    #[test]
    fn too_many_files_are_refused_with_the_limit() {
        assert_eq!(allow_files(1), Ok(()));
        if getrlimit(Resource::Nofile).maximum.is_some() {
            let refused = allow_files(usize::MAX / 2).unwrap_err();
            assert!(refused.contains("ulimit -n"), "{refused}");
        }
    }
}
