//! Whether one thing that one rule watches is an alert: too much for long enough opens it, well for long enough ends it. Pure.
//!
//! Between the two limits of a rule nothing begins and nothing ends. A hold is made of observations: a pause in them longer than the hold (at
//! least [`LEAST_PAUSE`]) begins it anew, because nobody knows what was in between. Time never runs backwards here.

/// Shortest pause between observations that begins a hold anew, ms.
pub const LEAST_PAUSE: i64 = 60_000;

/// How an observation stands to the limits of the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Well.
    Low,
    /// Below the limit, and not yet below the one at which it is well again.
    Between,
    /// Too much.
    High,
}

/// How long too much lasts before it is an alert, and well before that is over; ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Too much for so long.
    pub hold: i64,
    /// Well for so long.
    pub clear: i64,
}

/// What an observation changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It is an alert now; too much since then.
    Opened(i64),
    /// It is none any more.
    Resolved,
}

/// See the module. Times are Unix ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Machine {
    /// Nothing is known that would matter.
    #[default]
    Quiet,
    /// Too much, not for long enough.
    Waiting {
        /// Since then.
        since: i64,
        /// The newest observation.
        last: i64,
    },
    /// An alert.
    Open {
        /// Well since then, if it is.
        well_since: Option<i64>,
        /// The newest observation.
        last: i64,
    },
}

impl Machine {
    /// An alert that was open when the server stopped.
    pub fn reopened(last: i64) -> Self {
        Self::Open {
            well_since: None,
            last,
        }
    }

    /// Takes an observation in.
    pub fn see(&mut self, level: Level, now: i64, times: Times) -> Option<Turn> {
        match *self {
            Self::Quiet if level == Level::High => self.wait(now, now, times),
            Self::Quiet => None,
            Self::Waiting { since, last } => {
                let now = now.max(last);
                if level != Level::High {
                    *self = Self::Quiet;
                    return None;
                }
                let is_paused = now - last > times.hold.max(LEAST_PAUSE);
                self.wait(if is_paused { now } else { since }, now, times)
            }
            Self::Open { well_since, last } => {
                let now = now.max(last);
                let well_since = match level {
                    Level::Low => Some(well_since.unwrap_or(now)),
                    Level::Between | Level::High => None,
                };
                *self = Self::Open {
                    well_since,
                    last: now,
                };
                self.pass(now, times)
            }
        }
    }

    /// Time passes without an observation: what was well goes on being well. Opens nothing.
    pub fn pass(&mut self, now: i64, times: Times) -> Option<Turn> {
        let Self::Open {
            well_since: Some(since),
            ..
        } = *self
        else {
            return None;
        };
        if now - since < times.clear {
            return None;
        }
        *self = Self::Quiet;
        Some(Turn::Resolved)
    }

    fn wait(&mut self, since: i64, now: i64, times: Times) -> Option<Turn> {
        if now - since < times.hold {
            *self = Self::Waiting { since, last: now };
            return None;
        }
        *self = Self::reopened(now);
        Some(Turn::Opened(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TIMES: Times = Times {
        hold: 5_000,
        clear: 3_000,
    };

    #[test]
    fn too_much_opens_after_the_hold_and_well_ends_it_after_its_own() {
        let mut machine = Machine::default();
        let mut see = |level, now| machine.see(level, now, TIMES);
        assert_eq!(see(Level::High, 1_000), None);
        assert_eq!(see(Level::High, 5_999), None);
        assert_eq!(see(Level::High, 6_000), Some(Turn::Opened(1_000)));
        assert_eq!(see(Level::Low, 7_000), None);
        assert_eq!(see(Level::Between, 9_000), None, "not well yet");
        assert_eq!(see(Level::Low, 10_000), None);
        assert_eq!(see(Level::Low, 13_000), Some(Turn::Resolved));
        assert_eq!(machine, Machine::Quiet);
    }

    #[test]
    fn one_good_reading_begins_the_hold_anew() {
        let mut machine = Machine::default();
        for (level, now) in [
            (Level::High, 0),
            (Level::High, 4_000),
            (Level::Between, 4_500),
            (Level::High, 5_000),
            (Level::High, 9_999),
        ] {
            assert_eq!(machine.see(level, now, TIMES), None, "{now}");
        }
        let opened = machine.see(Level::High, 10_000, TIMES);
        assert_eq!(opened, Some(Turn::Opened(5_000)));
    }

    #[test]
    fn a_device_that_was_away_does_not_hold() {
        let mut machine = Machine::default();
        assert_eq!(machine.see(Level::High, 0, TIMES), None);
        assert_eq!(machine.see(Level::High, LEAST_PAUSE + 1, TIMES), None);
        let opened = machine.see(Level::High, LEAST_PAUSE + 5_001, TIMES);
        assert_eq!(opened, Some(Turn::Opened(LEAST_PAUSE + 1)));
    }

    #[test]
    fn a_clock_that_goes_back_opens_nothing_early_and_ends_nothing_early() {
        let mut machine = Machine::default();
        machine.see(Level::High, 10_000, TIMES);
        assert_eq!(machine.see(Level::High, 1_000, TIMES), None);
        assert_eq!(machine.see(Level::High, 14_999, TIMES), None);
        assert!(machine.see(Level::High, 15_000, TIMES).is_some());
        assert_eq!(machine.see(Level::Low, 2_000, TIMES), None);
        assert_eq!(machine.see(Level::Low, 17_999, TIMES), None);
        let resolved = machine.see(Level::Low, 18_000, TIMES);
        assert_eq!(resolved, Some(Turn::Resolved));
    }

    fn level() -> impl Strategy<Value = Level> {
        prop_oneof![Just(Level::Low), Just(Level::Between), Just(Level::High)]
    }

    proptest! {
        #[test]
        fn turns_alternate_and_each_has_its_reason(
            seen in proptest::collection::vec((level(), 0i64..4_000, any::<bool>()), 0..200),
            hold in 0i64..20_000,
            clear in 0i64..20_000,
        ) {
            let times = Times { hold, clear };
            let (mut machine, mut now, mut is_open) = (Machine::default(), 0, false);
            // Since when without a break: only `High`; only `Low`.
            let (mut high, mut low) = (None, None);
            for (level, later, passes) in seen {
                now += later;
                if passes && let Some(turn) = machine.pass(now, times) {
                    prop_assert_eq!(turn, Turn::Resolved);
                    prop_assert!(is_open && low.is_some_and(|since| now - since >= clear));
                    is_open = false;
                }
                high = (level == Level::High).then(|| high.unwrap_or(now));
                low = (level == Level::Low).then(|| low.unwrap_or(now));
                match machine.see(level, now, times) {
                    Some(Turn::Opened(since)) => {
                        prop_assert!(!is_open && now - since >= hold);
                        prop_assert!(high.is_some_and(|high| high <= since));
                        is_open = true;
                    }
                    Some(Turn::Resolved) => {
                        prop_assert!(is_open && low.is_some_and(|since| now - since >= clear));
                        is_open = false;
                    }
                    None => {
                        let is_due = high.is_some_and(|since| now - since >= hold);
                        prop_assert!(is_open || !is_due, "an alert is missing");
                        let is_well = low.is_some_and(|since| now - since >= clear);
                        prop_assert!(!is_open || !is_well, "an alert is left over");
                    }
                }
                prop_assert_eq!(is_open, matches!(machine, Machine::Open { .. }));
            }
        }
    }
}
