//! Experiments: which devices get which version, what that comes to, and what is done about it.
//!
//! Owns the declarations with their states ([`Experiments`]), the [`Board`] that the road asks for a device's place, and the task that reads the
//! committed log ([`follow()`]). One change at a time: its row commits, then the board is replaced, then streams follow it (`pipeline`).
//! Promises that the arms of an experiment never change, that every change is a row that stays, and that a stream is served whatever becomes of an
//! experiment. The statistics are those of the crate `tidegate_experiments`; nothing is computed here that is written there.

mod board;
mod definition;
mod follow;
mod measure;
pub mod outcome;
mod shade;
mod shadow;
mod told;
mod watch;

pub use board::{Board, Live, Placement};
pub use definition::{ArmDefinition, Definition, DefinitionError, Kind};
pub use follow::{Feed, Inbox, feed, follow};
pub use measure::MetricDefinition;
pub use shade::shade;
pub use watch::Results;

use crate::inference::Engine;
use crate::registry::{Asked, ChangeError, Registry};
use crate::store::{ExperimentRow, NewExperiment, Note, NoteRow, StateChange, Store, StoreError};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;
use tidegate_experiments::bandit::Bandit;
use tokio::sync::Mutex;

/// Experiments that are kept, ended ones included.
const MOST: usize = 10_000;
/// Experiments that run at once.
const MOST_RUNNING: usize = 64;

/// What an experiment is.
pub mod state {
    /// Devices come in.
    pub const RUNNING: &str = "running";
    /// It keeps the devices that it has.
    pub const PAUSED: &str = "paused";
    /// Over; production serves its devices.
    pub const STOPPED: &str = "stopped";
    /// Over; the version of one of its arms is in production.
    pub const PROMOTED: &str = "promoted";
    /// Over; its challengers were taken back.
    pub const ROLLED_BACK: &str = "rolled_back";

    /// Whether devices are in its arms.
    pub fn is_live(state: &str) -> bool {
        matches!(state, RUNNING | PAUSED)
    }
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    /// It cannot be.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    /// No such experiment.
    #[error("no experiment {0:?}")]
    Unknown(String),
    /// Names are given once.
    #[error(
        "name: there is an experiment `{0}` already, and its name stays with it: take another one"
    )]
    Taken(String),
    /// Too many.
    #[error("{0} experiments run: stop one first")]
    TooMany(usize),
    /// It is in a state in which this cannot be done.
    #[error("{name} is {state}: it cannot be {action}")]
    State {
        /// Which one.
        name: String,
        /// What it is.
        state: String,
        /// What was asked for.
        action: &'static str,
    },
    /// No such arm.
    #[error("{name} has no arm {arm:?}: it has {known}")]
    Arm {
        /// The experiment.
        name: String,
        /// What was asked for.
        arm: String,
        /// What there is.
        known: String,
    },
    /// The version of an arm could not be promoted.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The change is not stored, or is not known to be.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is asked of an experiment.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// No more devices.
    Pause,
    /// Devices again.
    Resume,
    /// The end: production serves its devices.
    Stop,
    /// The end: the version of this arm goes into production.
    Promote(String),
    /// The end: something is wrong with a challenger.
    RollBack,
    /// The next step of its ramp.
    Step(u32),
    /// A bandit has learned.
    Learn(Arc<Bandit>),
}

impl Action {
    fn word(&self) -> &'static str {
        match self {
            Self::Pause => "paused",
            Self::Resume => "resumed",
            Self::Stop => "stopped",
            Self::Promote(_) => "promoted",
            Self::RollBack => "rolled back",
            Self::Step(_) => "taken a step further",
            Self::Learn(_) => "learned",
        }
    }

    /// The state that it leads to, from this one.
    fn leads_to(&self, from: &str) -> Option<&'static str> {
        match self {
            Self::Pause if from == state::RUNNING => Some(state::PAUSED),
            Self::Resume if from == state::PAUSED => Some(state::RUNNING),
            Self::Step(_) | Self::Learn(_) if from == state::RUNNING => Some(state::RUNNING),
            Self::Stop if state::is_live(from) => Some(state::STOPPED),
            Self::Promote(_) if state::is_live(from) => Some(state::PROMOTED),
            Self::RollBack if state::is_live(from) => Some(state::ROLLED_BACK),
            _ => None,
        }
    }
}

/// An experiment with its declaration.
#[derive(Debug, Clone)]
pub struct Kept {
    /// As stored.
    pub row: ExperimentRow,
    /// As declared.
    pub definition: Arc<Definition>,
}

/// See the module.
pub struct Experiments {
    store: Arc<dyn Store>,
    registry: Arc<Registry>,
    board: Arc<Board>,
    kept: RwLock<Arc<Vec<Arc<Kept>>>>,
    /// What each bandit has learned, by row id.
    learned: RwLock<HashMap<i64, Arc<Bandit>>>,
    /// What the numbers of each said last, by row id.
    shown: RwLock<HashMap<i64, Arc<Results>>>,
    /// One change at a time.
    changing: Mutex<()>,
}

impl Experiments {
    /// Reads what there is and puts what runs on the board.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub async fn open(
        store: Arc<dyn Store>,
        registry: Arc<Registry>,
        board: Arc<Board>,
    ) -> Result<Self, StoreError> {
        let experiments = Self {
            store,
            registry,
            board,
            kept: RwLock::default(),
            learned: RwLock::default(),
            shown: RwLock::default(),
            changing: Mutex::default(),
        };
        experiments.read().await?;
        experiments.recall().await?;
        Ok(experiments)
    }

    /// Finds what bandits have learned before this server started.
    async fn recall(&self) -> Result<(), StoreError> {
        let all = self.all();
        let bandits = all
            .iter()
            .filter(|one| one.definition.kind == Kind::Bandit && state::is_live(&one.row.state));
        for one in bandits {
            let history = self.history(one.row.id).await?;
            if let Some((_, bandit)) = learned(&history).pop() {
                self.learned.write().insert(one.row.id, bandit);
            }
        }
        self.read().await
    }

    /// Takes what is stored, and puts what follows from it on the board.
    async fn read(&self) -> Result<(), StoreError> {
        let rows = self.store.experiments().await?;
        let mut kept = Vec::with_capacity(rows.len());
        for row in rows {
            match serde_json::from_str(&row.declared.definition) {
                Ok(definition) => kept.push(Arc::new(Kept {
                    row,
                    definition: Arc::new(definition),
                })),
                Err(error) => {
                    tracing::error!(experiment = row.declared.name, %error, "left out: its declaration cannot be read");
                }
            }
        }
        let live = kept.iter().filter(|one| state::is_live(&one.row.state));
        // A shadow puts no device into an arm.
        let live = live.filter(|one| one.definition.kind != Kind::Shadow);
        let learned = self.learned.read().clone();
        self.board.replace(
            live.filter_map(|one| Live::new(&one.row, &one.definition, learned.get(&one.row.id))),
        );
        *self.kept.write() = Arc::new(kept);
        Ok(())
    }

    /// All of them, oldest first.
    pub fn all(&self) -> Arc<Vec<Arc<Kept>>> {
        Arc::clone(&self.kept.read())
    }

    /// The one of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn find(&self, name: &str) -> Result<Arc<Kept>, ExperimentError> {
        let all = self.all();
        let found = all.iter().find(|one| one.definition.name == name);
        found
            .cloned()
            .ok_or_else(|| ExperimentError::Unknown(name.chars().take(64).collect()))
    }

    /// What happened to one, oldest first.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub async fn history(&self, id: i64) -> Result<Vec<NoteRow>, StoreError> {
        self.store.experiment_history(id).await
    }

    /// Begins an experiment; returns when it is stored and new streams get their arms.
    ///
    /// # Errors
    /// See [`ExperimentError`]; nothing was begun.
    pub async fn create(
        &self,
        definition: Definition,
        asked: &Asked,
    ) -> Result<Arc<Kept>, ExperimentError> {
        let _one = self.changing.lock().await;
        definition.check(&self.registry.engines().load())?;
        let all = self.all();
        if all.iter().any(|one| one.definition.name == definition.name) {
            return Err(ExperimentError::Taken(definition.name));
        }
        let live = || all.iter().filter(|one| state::is_live(&one.row.state));
        definition.check_layer(live().map(|one| &*one.definition))?;
        if live().count() >= MOST_RUNNING || all.len() >= MOST {
            return Err(ExperimentError::TooMany(live().count()));
        }
        let new = NewExperiment {
            name: definition.name.clone(),
            endpoint: definition.endpoint.clone(),
            definition: serde_json::to_string(&definition).expect("plain fields become JSON"),
        };
        let note = note(asked, "created".to_owned());
        self.store.create_experiment(&new, &note).await?;
        self.read().await?;
        tracing::info!(
            experiment = new.name,
            endpoint = new.endpoint,
            who = asked.who,
            "begun"
        );
        self.find(&definition.name)
    }

    /// Changes one; returns when that is stored and new streams follow it.
    ///
    /// # Errors
    /// See [`ExperimentError`]. A promotion that succeeded before the rest failed stays: ask again.
    pub async fn change(
        &self,
        name: &str,
        action: &Action,
        asked: &Asked,
    ) -> Result<Arc<Kept>, ExperimentError> {
        let _one = self.changing.lock().await;
        let kept = self.find(name)?;
        let from = kept.row.state.clone();
        let to = action
            .leads_to(&from)
            .ok_or_else(|| ExperimentError::State {
                name: name.to_owned(),
                state: from.replace('_', " "),
                action: action.word(),
            })?;
        let mut what = action.word().to_owned();
        let mut step = kept.row.step;
        match action {
            Action::Promote(arm) => {
                let version = version_of(&kept.definition, arm)?;
                // Before the experiment ends, so that no stream goes back to the version before on its way.
                let endpoint = &kept.definition.endpoint;
                self.registry.promote(endpoint, version, asked).await?;
                what = format!("promoted {arm} ({version})");
            }
            Action::Step(next) => {
                step = *next;
                let share = kept.definition.ramp.get(*next as usize);
                let share = share.map_or(1.0, |step| step.share) * 100.0;
                what = format!("step {next}: {share}%");
            }
            Action::Learn(bandit) => {
                let shares = bandit.shares().iter();
                let shares: Vec<String> = shares.map(|share| format!("{share:.3}")).collect();
                what = format!("learned: {}", shares.join(" "));
            }
            _ => {}
        }
        let change = StateChange {
            id: kept.row.id,
            from: &from,
            to,
            step,
        };
        let stored = self
            .store
            .change_experiment(change, &note(asked, what))
            .await;
        if let (Ok(()), Action::Learn(bandit)) = (&stored, action) {
            self.learned.write().insert(kept.row.id, Arc::clone(bandit));
        }
        self.read().await?;
        stored?;
        tracing::info!(
            experiment = name,
            state = to,
            step,
            who = asked.who,
            why = asked.why,
            "changed"
        );
        self.find(name)
    }

    /// What the numbers of one said last; `None` before they were looked at, and when it ended before this server started.
    pub fn results(&self, id: i64) -> Option<Arc<Results>> {
        self.shown.read().get(&id).cloned()
    }

    fn show(&self, id: i64, results: Results) {
        self.shown.write().insert(id, Arc::new(results));
    }

    fn engine(&self) -> Arc<Engine> {
        self.registry.engines().load()
    }

    fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// Where the road asks.
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }
}

/// What a bandit has learned and when, Unix ms: a row of its history each.
fn learned(history: &[NoteRow]) -> Vec<(i64, Arc<Bandit>)> {
    let rows = history
        .iter()
        .filter(|row| row.note.what.starts_with("learned:"));
    let read = |row: &NoteRow| {
        let bandit = serde_json::from_str(&row.note.evidence).ok()?;
        Some((row.at, Arc::new(bandit)))
    };
    rows.filter_map(read).collect()
}

fn version_of<'a>(definition: &'a Definition, arm: &str) -> Result<&'a str, ExperimentError> {
    let found = definition.arms.iter().find(|one| one.name == arm);
    found.map(|one| one.version.as_str()).ok_or_else(|| {
        let known: Vec<&str> = definition.arms.iter().map(|one| &*one.name).collect();
        ExperimentError::Arm {
            name: definition.name.clone(),
            arm: arm.chars().take(64).collect(),
            known: known.join(", "),
        }
    })
}

fn note(asked: &Asked, what: String) -> Note {
    Note {
        who: asked.who.clone(),
        what,
        evidence: asked.why.clone(),
    }
}
