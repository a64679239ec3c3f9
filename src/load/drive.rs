//! One thread's loop: polls its connections, checks what comes, sends what is due, counts.
//!
//! Everything that waits in a socket is read at once, everything that is due leaves in one write. In the closed loop an answer makes room for
//! the next reading; in the open loop a clock that ticks every 100 us says what is due, and what the socket does not take yet keeps its time.

use super::connection::{Connection, Role};
use super::counts::{Counts, Progress, Window};
use super::ledger::Times;
use super::plan::{Pace, Plan};
use super::process;
use super::words::{Encoder, Heard};
use rustix::event::{Timespec, epoll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Ticks of the open loop: what is due within one leaves together.
const TICK_NS: u64 = 100_000;
/// Longest wait, so that the end of a run is seen.
const LONGEST_WAIT: Duration = Duration::from_millis(20);
/// At the end, how long nothing may come before what is missing is given up.
const PATIENCE: Duration = Duration::from_secs(15);
/// At the end, how long nothing may come before no further event is awaited, and how long in all where others go on sending.
const EVENTS_TRICKLE: Duration = Duration::from_millis(200);
const EVENTS_AT_MOST: Duration = Duration::from_secs(2);
/// What is read at once; half a message of the next read stands before it.
const BUFFER_BYTES: usize = 256 * 1024;
/// Events of the poll taken at once.
const POLLED: usize = 256;
/// The timer's number in the poll.
const TIMER: u64 = u64::MAX;

/// See the module.
pub struct Driver {
    epoll: OwnedFd,
    timer: Option<OwnedFd>,
    connections: Vec<Connection>,
    encoder: Encoder,
    pace: Pace,
    /// Connections that send, over all threads.
    senders: usize,
    core: Option<usize>,
    base: Instant,
    window: Window,
    sending: bool,
    counts: Counts,
    progress: Arc<Progress>,
    told: Told,
    buffer: Vec<u8>,
    last_heard: u64,
}

/// What the progress was told already.
#[derive(Default)]
struct Told {
    predicted: u64,
    acked: u64,
    events: u64,
}

impl Driver {
    /// A loop without connections; times count from `base`.
    ///
    /// # Errors
    /// The kernel gives no poll.
    pub fn new(
        plan: &Plan,
        encoder: Encoder,
        base: Instant,
        progress: Arc<Progress>,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self {
            epoll,
            timer: None,
            connections: Vec::new(),
            encoder,
            pace: plan.pace,
            senders: plan.connections,
            core: plan.core,
            base,
            window: Window::default(),
            sending: false,
            counts: Counts::default(),
            progress,
            told: Told::default(),
            buffer: vec![0; BUFFER_BYTES],
            last_heard: 0,
        })
    }

    /// Takes a connection in.
    ///
    /// # Errors
    /// The kernel has no room for it.
    pub fn add(&mut self, mut connection: Connection) -> io::Result<()> {
        let data = epoll::EventData::new_u64(self.connections.len() as u64);
        epoll::add(&self.epoll, &connection.tcp, data, epoll::EventFlags::IN)?;
        self.progress.connected.fetch_add(1, Ordering::Relaxed);
        if matches!(connection.role, Role::Sender(..)) {
            self.progress.senders.fetch_add(1, Ordering::Relaxed);
        }
        let rest = connection.take_rest();
        self.connections.push(connection);
        self.parse(self.connections.len() - 1, &rest);
        Ok(())
    }

    fn now(&self) -> u64 {
        self.base.elapsed().as_nanos() as u64
    }

    /// Runs through `window` and returns what was counted.
    ///
    /// # Errors
    /// The kernel's poll fails, or there is no such core; for people.
    pub fn run(mut self, window: Window) -> Result<Counts, String> {
        if let Some(core) = self.core {
            process::stay_on(core)?;
        }
        self.window = window;
        self.counts.set_window(window);
        self.drive().map_err(|error| format!("poll: {error}"))?;
        Ok(self.counts)
    }

    fn drive(&mut self) -> io::Result<()> {
        while self.now() < self.window.start {
            let wait = Duration::from_nanos(self.window.start.saturating_sub(self.now()));
            self.turn(wait.min(LONGEST_WAIT))?;
        }
        self.sending = true;
        match self.pace {
            Pace::InFlight(_) => self.each_sender(Self::send_some),
            Pace::PerSecond(_) => self.start_clock()?,
        }
        let mut cpu_before = None;
        while self.now() < self.window.until && !self.progress.is_stopped() && self.has_work() {
            if cpu_before.is_none() && self.now() >= self.window.from {
                cpu_before = Some(process::thread_cpu());
            }
            let left = Duration::from_nanos(self.window.until.saturating_sub(self.now()));
            self.turn(left.min(LONGEST_WAIT))?;
        }
        if let Some(before) = cpu_before {
            let spent = process::thread_cpu().saturating_sub(before);
            self.counts.cpu_s = spent.as_secs_f64();
        }
        self.sending = false;
        self.drain()
    }

    /// Whether anything is left to run for: senders, or where there are none, whoever is connected.
    fn has_work(&self) -> bool {
        self.senders == 0 || self.progress.senders.load(Ordering::Relaxed) > 0
    }

    /// Awaits what is on its way, as long as something comes.
    fn drain(&mut self) -> io::Result<()> {
        self.last_heard = self.now();
        let quiet = |driver: &Self| driver.now().saturating_sub(driver.last_heard);
        while self.is_owed() && quiet(self) < PATIENCE.as_nanos() as u64 {
            self.turn(LONGEST_WAIT)?;
        }
        let listens = |line: &Connection| matches!(line.role, Role::Subscriber(_));
        if self.connections.iter().any(listens) {
            let at_most = self.now() + EVENTS_AT_MOST.as_nanos() as u64;
            while quiet(self) < EVENTS_TRICKLE.as_nanos() as u64 && self.now() < at_most {
                self.turn(LONGEST_WAIT)?;
            }
        }
        for connection in &mut self.connections {
            if let (true, Role::Sender(_, ledger)) = (connection.open, &connection.role) {
                self.counts.unanswered += ledger.in_flight() as u64;
                self.counts.unacked += ledger.unsettled() as u64;
            }
            connection.bid_farewell();
        }
        Ok(())
    }

    fn is_owed(&self) -> bool {
        let owes = |line: &Connection| matches!(&line.role, Role::Sender(_, ledger) if line.open && !ledger.is_done());
        self.connections.iter().any(owes)
    }

    /// A timer that ticks as often as readings are due, within bounds.
    fn start_clock(&mut self) -> io::Result<()> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        let tick = Timespec {
            tv_sec: 0,
            tv_nsec: i64::try_from(TICK_NS).unwrap_or(i64::MAX),
        };
        let spec = Itimerspec {
            it_interval: tick,
            it_value: tick,
        };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &spec)?;
        let data = epoll::EventData::new_u64(TIMER);
        epoll::add(&self.epoll, &timer, data, epoll::EventFlags::IN)?;
        self.timer = Some(timer);
        Ok(())
    }

    /// Waits for at most `wait` and handles what there is.
    ///
    /// # Errors
    /// The kernel's poll fails.
    pub fn turn(&mut self, wait: Duration) -> io::Result<()> {
        let mut polled = [MaybeUninit::<epoll::Event>::uninit(); POLLED];
        let timeout = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        };
        let polled: &[epoll::Event] =
            match epoll::wait(&self.epoll, &mut polled[..], Some(&timeout)) {
                Ok((polled, _)) => polled,
                Err(rustix::io::Errno::INTR) => &[],
                Err(error) => return Err(error.into()),
            };
        for event in polled {
            let (at, flags) = (event.data.u64(), event.flags);
            if at == TIMER {
                self.tick();
            } else {
                self.serve(at as usize, flags);
            }
        }
        self.tell();
        Ok(())
    }

    fn tick(&mut self) {
        if let Some(timer) = &self.timer {
            // Only how often it ticked, which the clock tells better.
            let _ = rustix::io::read(timer, &mut [0; 8]);
        }
        if self.sending {
            self.each_sender(Self::send_some);
        }
    }

    fn each_sender(&mut self, what: impl Fn(&mut Self, usize)) {
        for at in 0..self.connections.len() {
            if matches!(self.connections[at].role, Role::Sender(..)) {
                what(self, at);
            }
        }
    }

    fn serve(&mut self, at: usize, flags: epoll::EventFlags) {
        let mut buffer = std::mem::take(&mut self.buffer);
        if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR)
            && self.connections[at].open
        {
            self.read(at, &mut buffer);
        }
        self.buffer = buffer;
        if self.connections[at].open {
            if self.sending {
                self.send_some(at);
            } else {
                self.flush(at);
            }
        }
    }

    fn read(&mut self, at: usize, buffer: &mut Vec<u8>) {
        let len = match self.connections[at].read(buffer) {
            Ok(Some(len)) => len,
            Ok(None) => return,
            Err(why) => return self.end(at, why),
        };
        self.parse(at, &buffer[..len]);
    }

    /// Takes in whole messages; the rest waits.
    fn parse(&mut self, at: usize, bytes: &[u8]) {
        let now = self.now();
        self.last_heard = now;
        let mut from = 0;
        while from < bytes.len() {
            match self.connections[at].take(&bytes[from..]) {
                Ok(Some((heard, used))) => {
                    from += used;
                    self.hear(at, heard, now);
                }
                Ok(None) => break,
                Err(why) => return self.end(at, why),
            }
        }
        self.connections[at].keep(&bytes[from..]);
    }

    fn hear(&mut self, at: usize, heard: Heard, now: u64) {
        let counts = &mut self.counts;
        let said = match (&mut self.connections[at].role, heard) {
            (Role::Sender(_, ledger), Heard::Prediction(seq, kind)) => ledger
                .answer(seq)
                .map(|times| counts.predict(times, kind, now)),
            (Role::Sender(_, ledger), Heard::Ack(seq)) => {
                ledger.ack(seq, |times| counts.ack(times, now))
            }
            (Role::Sender(_, ledger), Heard::Stored(seq, kind)) => ledger
                .answer(seq)
                .map(|times| counts.predict(times, kind, now))
                .and_then(|()| ledger.ack(seq, |times| counts.ack(times, now))),
            (Role::Sender(_, ledger), Heard::Nack(seq, code, text)) => {
                counts.nack(code);
                // Over HTTP it is about the one that is on its way.
                let alone = ledger.next().saturating_sub(1);
                ledger
                    .refuse(seq.unwrap_or(alone))
                    .map_err(|error| format!("{error} ({text})"))
            }
            (Role::Sender(_, ledger), Heard::Shed(_)) => {
                counts.shed += 1;
                ledger.refuse(ledger.next().saturating_sub(1))
            }
            (_, Heard::Gap(..)) => {
                counts.gaps += 1;
                Ok(())
            }
            (Role::Subscriber(last), Heard::Event(offset)) if offset > *last || *last == 0 => {
                *last = offset;
                counts.event(now);
                Ok(())
            }
            (Role::Subscriber(last), Heard::Event(offset)) => {
                Err(format!("event {offset} behind event {last}"))
            }
            (Role::Subscriber(_), Heard::Dropped(count)) => {
                counts.dropped += count;
                Ok(())
            }
            (_, Heard::Error(_) | Heard::Other) => Ok(()),
            (_, heard) => Err(format!("{heard:?} where nothing was awaited")),
        };
        if let Err(what) = said {
            self.counts.wrong(what);
        }
    }

    /// Encodes what may leave now and writes it.
    fn send_some(&mut self, at: usize) {
        let now = self.now();
        let connection = &mut self.connections[at];
        let Role::Sender(number, _) = connection.role else {
            return self.flush(at);
        };
        match self.pace {
            Pace::InFlight(most) => {
                while connection.has_room()
                    && matches!(&connection.role, Role::Sender(_, ledger) if ledger.in_flight() < most)
                {
                    connection.put(
                        &self.encoder,
                        Times {
                            due: now,
                            sent: now,
                        },
                    );
                    self.counts.send(now);
                }
            }
            Pace::PerSecond(per_s) => loop {
                // Readings go round the connections: the k-th of this one is reading k * senders + number of all.
                let index = connection.sent * self.senders as u64 + number as u64;
                let due = self.window.start + (index as f64 * 1e9 / per_s) as u64;
                if due > now || !connection.has_room() {
                    break;
                }
                connection.put(&self.encoder, Times { due, sent: now });
                self.counts.send(now);
            },
        }
        self.flush(at);
    }

    fn flush(&mut self, at: usize) {
        let connection = &mut self.connections[at];
        let blocked = match connection.flush() {
            Ok(blocked) => blocked,
            Err(error) => return self.end(at, error.kind().to_string()),
        };
        if blocked != connection.asks_to_write {
            connection.asks_to_write = blocked;
            let mut flags = epoll::EventFlags::IN;
            flags.set(epoll::EventFlags::OUT, blocked);
            let data = epoll::EventData::new_u64(at as u64);
            if let Err(error) = epoll::modify(&self.epoll, &connection.tcp, data, flags) {
                self.end(at, error.to_string());
            }
        }
    }

    /// A connection that ended by itself.
    fn end(&mut self, at: usize, why: String) {
        let connection = &mut self.connections[at];
        if !connection.open {
            return;
        }
        let why = connection.end(why);
        // The socket is closed when the run is over; until then it must not wake anyone.
        let _ = epoll::delete(&self.epoll, &connection.tcp);
        if let Role::Sender(_, ledger) = &connection.role {
            self.counts.unanswered += ledger.in_flight() as u64;
            self.counts.unacked += ledger.unsettled() as u64;
            self.progress.senders.fetch_sub(1, Ordering::Relaxed);
        }
        self.progress.connected.fetch_sub(1, Ordering::Relaxed);
        self.counts.close(why);
    }

    fn tell(&mut self) {
        let (counts, told) = (&self.counts, &mut self.told);
        for (shared, now, before) in [
            (
                &self.progress.predicted,
                counts.predicted,
                &mut told.predicted,
            ),
            (&self.progress.acked, counts.acked, &mut told.acked),
            (&self.progress.events, counts.events, &mut told.events),
        ] {
            if now != *before {
                shared.fetch_add(now - *before, Ordering::Relaxed);
                *before = now;
            }
        }
    }
}
