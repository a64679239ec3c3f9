//! What can go wrong with the rig and when: the kinds of fault, one fault's course, and plans of faults.
//!
//! A fault ramps up, holds and ramps down; its severity (0 to 1) is all the physics sees. A plan says when faults
//! come: never, at random, or exactly as listed. Wear is no fault here: it is slow, always there and never labelled.

use super::random::Random;

/// What ails the rig at a reading, the ground truth beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Nothing: the rig is healthy.
    None,
    /// The valve at the pump's inlet is partly closed.
    ValveClosing,
    /// Air or too little suction head: the pump cavitates.
    Cavitation,
    /// The rotor is out of balance.
    Imbalance,
}

impl Fault {
    /// The three faults, in the order a random plan numbers them.
    pub const ALL: [Fault; 3] = [Fault::ValveClosing, Fault::Cavitation, Fault::Imbalance];

    /// A short name for labels: `normal`, `valve-closing`, `cavitation`, `imbalance`.
    pub fn name(self) -> &'static str {
        match self {
            Fault::None => "normal",
            Fault::ValveClosing => "valve-closing",
            Fault::Cavitation => "cavitation",
            Fault::Imbalance => "imbalance",
        }
    }

    /// False for [`Fault::None`].
    pub fn is_fault(self) -> bool {
        self != Fault::None
    }
}

/// One fault's course, in readings (seconds) since the rig started.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Episode {
    /// What goes wrong.
    pub fault: Fault,
    /// First reading with a severity above zero.
    pub start: u64,
    /// Readings from start to full severity.
    pub rise: u32,
    /// Readings at full severity.
    pub hold: u32,
    /// Readings back to health.
    pub fall: u32,
    /// Severity at its height, 0 to 1.
    pub severity: f64,
}

impl Episode {
    /// The reading at which the rig is healthy again.
    pub fn end(&self) -> u64 {
        self.start + u64::from(self.rise) + u64::from(self.hold) + u64::from(self.fall)
    }

    /// Severity at reading `now`; 0 outside the episode.
    pub fn severity_at(&self, now: u64) -> f64 {
        if now < self.start || now >= self.end() {
            return 0.0;
        }
        let age = (now - self.start) as f64 + 1.0;
        let left = (self.end() - now) as f64;
        let up = age / f64::from(self.rise.max(1));
        let down = left / (f64::from(self.fall) + 1.0);
        self.severity * up.min(down).min(1.0)
    }
}

/// When faults come.
#[derive(Debug, Clone, PartialEq)]
pub enum FaultPlan {
    /// Never: a healthy rig.
    Never,
    /// Random faults, one after another, after `healthy_first` healthy readings.
    Random {
        /// Healthy readings at the start, so that a detector calibrates on health.
        healthy_first: u32,
    },
    /// Exactly these, in order of their start; a later one begins no sooner than the earlier one has ended.
    Listed(Vec<Episode>),
}

/// Walks a plan, second by second.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    plan: FaultPlan,
    current: Option<Episode>,
    listed_next: usize,
}

impl Schedule {
    pub(super) fn new(plan: FaultPlan) -> Self {
        Self {
            plan,
            current: None,
            listed_next: 0,
        }
    }

    /// The fault and its severity at reading `now`; called once a reading with a rising `now`.
    pub(super) fn at(&mut self, now: u64, random: &mut Random) -> (Fault, f64) {
        if self.current.is_none_or(|e| now >= e.end()) {
            self.current = self.next_after(now, random);
        }
        match self.current {
            Some(e) if e.severity_at(now) > 0.0 => (e.fault, e.severity_at(now)),
            _ => (Fault::None, 0.0),
        }
    }

    fn next_after(&mut self, now: u64, random: &mut Random) -> Option<Episode> {
        match &self.plan {
            FaultPlan::Never => None,
            FaultPlan::Random { healthy_first } => {
                let pause = random.uniform(90.0, 420.0) as u64;
                let earliest = now.max(u64::from(*healthy_first));
                Some(random_episode(earliest + pause, random))
            }
            FaultPlan::Listed(episodes) => {
                let next = episodes.get(self.listed_next).copied();
                self.listed_next += usize::from(next.is_some());
                next
            }
        }
    }
}

fn random_episode(start: u64, random: &mut Random) -> Episode {
    Episode {
        fault: Fault::ALL[random.below(3) as usize],
        start,
        rise: random.uniform(4.0, 25.0) as u32,
        hold: random.uniform(60.0, 180.0) as u32,
        fall: random.uniform(4.0, 15.0) as u32,
        severity: random.uniform(0.45, 1.0),
    }
}
