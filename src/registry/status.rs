//! Which version of an endpoint is in production, and which rows a change of status adds. Pure.
//!
//! The rows are the truth: a version's status is that of its newest row, and `testing` without one. The version of the newest `production`
//! row serves; while no such row exists the default of `endpoint.toml` does. A rollback puts back what was in production before, and
//! another one what was before that: a version that comes back takes those behind it off the pile.

use crate::store::{StatusChange, StatusRow};
use crate::stream::Status;
use std::collections::HashMap;

/// What the rows of one endpoint come to.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    statuses: HashMap<i64, Status>,
    /// Versions that came into production and were not taken back, oldest first.
    pile: Vec<i64>,
    /// The version that came to staging last and is still there, last.
    staging: Vec<i64>,
}

/// Who asks, and for which reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Who.
    pub who: String,
    /// Why.
    pub why: String,
}

impl Standing {
    /// From the rows of one endpoint, oldest first.
    pub fn of<'a>(rows: impl Iterator<Item = &'a StatusRow>) -> Self {
        let mut standing = Self::default();
        for row in rows {
            standing.take(row.change.version_id, row.change.status);
        }
        standing
    }

    fn take(&mut self, version: i64, status: Status) {
        self.statuses.insert(version, status);
        self.staging.retain(|staged| *staged != version);
        match status {
            Status::Staging => self.staging.push(version),
            Status::Production => {
                let before = self.pile.len().checked_sub(2).map(|index| self.pile[index]);
                if before == Some(version) {
                    self.pile.pop();
                } else if self.pile.last() != Some(&version) {
                    self.pile.push(version);
                }
            }
            Status::Testing | Status::Archived => {}
        }
    }

    /// Of a version, by its rows alone.
    pub fn status(&self, version: i64) -> Status {
        let status = self.statuses.get(&version).copied();
        status.unwrap_or(Status::Testing)
    }

    /// The version in production; `None` while the default serves.
    pub fn production(&self) -> Option<i64> {
        self.pile.last().copied()
    }

    /// The version that was in production before, for a rollback.
    pub fn before(&self) -> Option<i64> {
        self.earlier().next()
    }

    /// Versions that were in production before and were not taken back, newest first.
    pub fn earlier(&self) -> impl Iterator<Item = i64> {
        self.pile.iter().rev().skip(1).copied()
    }

    /// The newest candidate.
    pub fn staging(&self) -> Option<i64> {
        self.staging.last().copied()
    }

    /// Rows that put `version` into production in the place of `serving`. `replaced` says what became of that one.
    pub fn promote(
        &self,
        version: i64,
        serving: i64,
        asked: &Asked,
        replaced: &str,
    ) -> Vec<StatusChange> {
        let mut rows = Vec::new();
        if self.production().is_none() {
            // Or a rollback would not know it.
            let why = "the default of endpoint.toml served so far".to_owned();
            rows.push(change(serving, Status::Production, &asked.who, why));
        }
        rows.push(change(
            serving,
            Status::Archived,
            &asked.who,
            replaced.to_owned(),
        ));
        rows.push(change(
            version,
            Status::Production,
            &asked.who,
            asked.why.clone(),
        ));
        rows
    }
}

/// One row.
pub fn change(version_id: i64, status: Status, who: &str, why: String) -> StatusChange {
    StatusChange {
        version_id,
        status,
        who: who.to_owned(),
        why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Asked {
        Asked {
            who: "ann".into(),
            why: "better".into(),
        }
    }

    /// Adds the rows of a promotion to what is there.
    fn promote(standing: &mut Standing, version: i64) {
        let serving = standing.production().unwrap_or(1);
        for row in standing.promote(version, serving, &asked(), "replaced") {
            standing.take(row.version_id, row.status);
        }
    }

    #[test]
    fn without_rows_nothing_is_in_production_and_all_are_testing() {
        let standing = Standing::default();
        assert_eq!((standing.production(), standing.before()), (None, None));
        assert_eq!(standing.status(1), Status::Testing);
    }

    #[test]
    fn one_version_is_in_production_and_the_one_before_is_archived() {
        let mut standing = Standing::default();
        promote(&mut standing, 2);
        assert_eq!(
            (standing.production(), standing.before()),
            (Some(2), Some(1))
        );
        assert_eq!(standing.status(1), Status::Archived);
        promote(&mut standing, 3);
        assert_eq!(standing.earlier().collect::<Vec<_>>(), [2, 1]);
        let productive = [1, 2, 3].map(|id| standing.status(id) == Status::Production);
        assert_eq!(productive, [false, false, true]);
    }

    #[test]
    fn rollbacks_go_back_one_by_one_and_end_at_the_first() {
        let mut standing = Standing::default();
        for version in [2, 3] {
            promote(&mut standing, version);
        }
        for expected in [2, 1] {
            let before = standing.before().expect("one before");
            assert_eq!(before, expected);
            promote(&mut standing, before);
            assert_eq!(standing.production(), Some(expected));
        }
        assert_eq!(standing.before(), None);
        promote(&mut standing, 3);
        assert_eq!(standing.before(), Some(1));
    }

    #[test]
    fn the_newest_candidate_is_in_staging() {
        let mut standing = Standing::default();
        for version in [2, 3, 4] {
            standing.take(version, Status::Staging);
        }
        assert_eq!(standing.staging(), Some(4));
        standing.take(4, Status::Testing);
        assert_eq!(standing.staging(), Some(3));
        promote(&mut standing, 3);
        assert_eq!(standing.staging(), Some(2));
    }
}
