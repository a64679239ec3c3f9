//! The task that reads the committed log for all running experiments, and acts on what it comes to.
//!
//! The writer hands over samples that are in an arm without waiting; what the queue has no room for is read from the store, as is everything
//! since an experiment began when the server starts, so that no count is lost and none is made twice. Feedback and refusals are rare and are
//! asked for once a second. The verdicts are looked at as often: they hold at all looks together. What is done by itself (a ramp's next step,
//! a promotion, a rollback) goes the way of a person's request, with the numbers as its reason.

use super::told::Told;
use super::watch::{Results, Seen, Watch};
use super::{Action, Experiments, Kept, Kind, state};
use crate::push::Hub;
use crate::registry::Asked;
use crate::store::{FeedbackRow, Known, RefusedRow, SampleQuery, StoreError};
use crate::stream::{SampleRow, now_ms};
use crate::telemetry::metric;
use parking_lot::{Mutex, RwLock};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Commits that may wait; one more is read from the store.
const BACKLOG: usize = 256;
/// Between two looks: guardrails are checked as often.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// Rows read from the store at once.
pub(super) const SLICE: u32 = 1_000;
/// Longest reason that is kept with what was done, in characters.
pub(super) const MOST_WHY: usize = 1_024;
/// Who acts when nobody is asked.
pub(super) const BY_ITSELF: &str = "tidegate";

pub(super) type Batch = Vec<(u64, Arc<SampleRow>)>;

/// The writer's side.
#[derive(Debug)]
pub struct Feed {
    queue: mpsc::Sender<Batch>,
    shared: Arc<Shared>,
}

/// What both sides see.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// The newest committed sample.
    pub newest: AtomicU64,
    /// Some samples did not fit in the queue.
    pub lagged: AtomicBool,
    /// Endpoints whose readings are wanted in or out of an arm; the flag tells whether there are any.
    endpoints: RwLock<HashSet<String>>,
    any: AtomicBool,
    /// Streams that were set back since somebody looked, as long as anybody wants them.
    pub resets: Mutex<Vec<i64>>,
}

impl Shared {
    /// The readings of this endpoint are wanted, too.
    pub fn want(&self, endpoint: &str) {
        self.endpoints.write().insert(endpoint.to_owned());
        self.any.store(true, Ordering::Release);
    }

    /// Those of these and no others.
    pub fn want_only(&self, endpoints: HashSet<String>) {
        self.any.store(!endpoints.is_empty(), Ordering::Release);
        *self.endpoints.write() = endpoints;
    }
}

/// The task's side.
#[derive(Debug)]
pub struct Inbox {
    pub(super) queue: mpsc::Receiver<Batch>,
    pub(super) shared: Arc<Shared>,
}

/// A queue of committed samples, of which `newest` is the newest so far: of those in an arm, or of those that a shadow wants.
pub fn feed(newest: u64) -> (Feed, Inbox) {
    let (sender, queue) = mpsc::channel(BACKLOG);
    let shared = Arc::new(Shared {
        newest: AtomicU64::new(newest),
        ..Shared::default()
    });
    let inbox = Inbox {
        queue,
        shared: Arc::clone(&shared),
    };
    (
        Feed {
            queue: sender,
            shared,
        },
        inbox,
    )
}

impl Feed {
    /// These samples are durable; those in an arm are counted. Never waits; costs next to nothing while none of them is.
    pub fn committed(&self, samples: &Batch) {
        self.pass(samples, |row| row.arm.is_some());
    }

    /// These samples are durable; those of the endpoints that shadows are at are answered. As cheap.
    pub fn committed_beside(&self, samples: &Batch) {
        let endpoints = self.shared.any.load(Ordering::Acquire);
        let endpoints = endpoints.then(|| self.shared.endpoints.read());
        self.pass(samples, |row| {
            let endpoint = row.stream.key.endpoint.as_str();
            endpoints.as_ref().is_some_and(|all| all.contains(endpoint))
        });
    }

    /// A stream was set back.
    pub fn reset(&self, stream: i64) {
        if self.shared.any.load(Ordering::Acquire) {
            self.shared.resets.lock().push(stream);
        }
    }

    fn pass(&self, samples: &Batch, is_wanted: impl Fn(&SampleRow) -> bool) {
        let Some((id, _)) = samples.last() else {
            return;
        };
        // First: whoever begins to follow reads the store up to here, and a batch that was passed by before that is among it.
        self.shared.newest.store(*id, Ordering::Release);
        let wanted: Batch = samples
            .iter()
            .filter(|(_, row)| is_wanted(row))
            .cloned()
            .collect();
        if !wanted.is_empty() && self.queue.try_send(wanted).is_err() {
            self.shared.lagged.store(true, Ordering::Release);
            metrics::counter!(metric::EXPERIMENTS_LAGGED).increment(1);
        }
    }
}

/// One experiment with what waits to be counted in its turn.
struct Followed {
    watch: Watch,
    feedback: VecDeque<FeedbackRow>,
    refusals: VecDeque<RefusedRow>,
    /// As stored.
    state: String,
    told: Told,
    /// Whether the store has no more of either for now.
    no_feedback: bool,
    no_refusals: bool,
}

/// Follows the committed log until `stop`.
pub async fn follow(
    experiments: Arc<Experiments>,
    hub: Arc<Hub>,
    inbox: Inbox,
    stop: CancellationToken,
) {
    let mut follower = Follower {
        experiments,
        hub,
        inbox,
        followed: HashMap::new(),
    };
    tokio::select! {
        () = follower.run() => {}
        () = stop.cancelled() => {}
    }
}

struct Follower {
    experiments: Arc<Experiments>,
    hub: Arc<Hub>,
    inbox: Inbox,
    /// By row id.
    followed: HashMap<i64, Followed>,
}

impl Follower {
    async fn run(&mut self) {
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut changes = self.experiments.board().changes();
        loop {
            tokio::select! {
                _ = tick.tick() => self.look().await,
                Ok(()) = changes.changed() => self.look().await,
                batch = self.inbox.queue.recv() => match batch {
                    Some(batch) => self.take(&batch).await,
                    None => return,
                },
            }
        }
    }

    /// Counts everything up to now, tells, and does what follows.
    async fn look(&mut self) {
        self.meet().await;
        while let Ok(batch) = self.inbox.queue.try_recv() {
            self.take(&batch).await;
        }
        if self.inbox.shared.lagged.swap(false, Ordering::AcqRel) {
            self.catch_up_all(self.inbox.shared.newest.load(Ordering::Acquire))
                .await;
        }
        let now = now_ms();
        let ids: Vec<i64> = self.followed.keys().copied().collect();
        for id in ids {
            let Some(one) = self.followed.get_mut(&id) else {
                continue;
            };
            (one.no_feedback, one.no_refusals) = (false, false);
            if let Err(error) = one.take_rare(&self.experiments, now).await {
                tracing::warn!(%error, experiment = one.watch.definition.name, "feedback waits: the store cannot be read");
            }
            let results = one.watch.results(now);
            self.experiments.show(id, results.clone());
            one.tell(&self.hub, &results);
            self.act(id, &results, now).await;
        }
    }

    /// Begins to follow what has begun, and leaves what is over.
    async fn meet(&mut self) {
        let all = self.experiments.all();
        let live = |kept: &&Arc<Kept>| {
            state::is_live(&kept.row.state) && kept.definition.kind != Kind::Shadow
        };
        self.followed.retain(|id, one| {
            let Some(kept) = all.iter().find(|kept| kept.row.id == *id) else {
                return false;
            };
            one.state.clone_from(&kept.row.state);
            if !live(&kept) {
                // The last word.
                let results = one.watch.results(now_ms());
                one.tell(&self.hub, &results);
                self.experiments.show(*id, results);
            }
            live(&kept)
        });
        for kept in all.iter().filter(live) {
            if self.followed.contains_key(&kept.row.id) {
                continue;
            }
            match self.begin(kept).await {
                Ok(followed) => {
                    self.followed.insert(kept.row.id, followed);
                }
                Err(error) => {
                    tracing::warn!(%error, experiment = kept.definition.name, "not followed yet");
                }
            }
        }
    }

    /// Counts an experiment from its beginning.
    async fn begin(&self, kept: &Kept) -> Result<Followed, StoreError> {
        let history = self.experiments.history(kept.row.id).await?;
        let steps = history.iter().filter_map(|row| {
            let step = row.note.what.strip_prefix("step ")?;
            Some((row.at, step.split(':').next()?.parse().ok()?))
        });
        let watch = Watch::new(&kept.row, &kept.definition, steps.collect())
            .map_err(|error| StoreError::Corrupt(error.to_string()))?;
        let mut watch = watch;
        for (at, bandit) in super::learned(&history) {
            watch.note_learned(at, bandit);
        }
        let mut followed = Followed {
            watch,
            feedback: VecDeque::new(),
            refusals: VecDeque::new(),
            state: kept.row.state.clone(),
            told: Told::default(),
            no_feedback: false,
            no_refusals: false,
        };
        let newest = self.inbox.shared.newest.load(Ordering::Acquire);
        followed.catch_up(&self.experiments, newest).await?;
        Ok(followed)
    }

    async fn take(&mut self, batch: &Batch) {
        let Some((first, _)) = batch.first() else {
            return;
        };
        if self.inbox.shared.lagged.swap(false, Ordering::AcqRel) {
            self.catch_up_all(first - 1).await;
        }
        for (id, row) in batch {
            let experiment = row.arm.as_ref().map(|arm| arm.experiment);
            let followed = experiment.and_then(|id| self.followed.get_mut(&id));
            if let (Some(one), Some(seen)) = (followed, Seen::of(row))
                && one.watch.taken < *id
            {
                one.watch.sample(&seen);
                one.watch.taken = *id;
            }
        }
    }

    async fn catch_up_all(&mut self, until: u64) {
        for one in self.followed.values_mut() {
            while let Err(error) = one.catch_up(&self.experiments, until).await {
                tracing::warn!(%error, "experiments wait: the store cannot be read");
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    /// Does what the numbers ask for, if it was declared so.
    async fn act(&mut self, id: i64, results: &Results, now: i64) {
        let Some(one) = self.followed.get_mut(&id) else {
            return;
        };
        let due = due(&one.watch, results, now).or_else(|| {
            let bandit = one.watch.learns(now)?;
            let why = serde_json::to_string(&*bandit).ok()?;
            Some((Action::Learn(bandit), why))
        });
        let Some((action, why)) = due else {
            return;
        };
        // A person has paused it: only what protects devices is done.
        if one.state == state::PAUSED && action != Action::RollBack {
            return;
        }
        let asked = Asked {
            who: BY_ITSELF.to_owned(),
            why: why.chars().take(MOST_WHY).collect(),
        };
        let name = one.watch.definition.name.clone();
        if let Action::RollBack = action {
            tracing::error!(experiment = name, why, "rolled back");
        }
        match self.experiments.change(&name, &action, &asked).await {
            Ok(_) => match action {
                Action::Step(step) => one.watch.note_step(now_ms(), step),
                Action::Learn(bandit) => one.watch.note_learned(now_ms(), bandit),
                _ => {}
            },
            // Somebody else has ended it, or the store does not answer: the next look sees.
            Err(error) => tracing::warn!(%error, experiment = name, "not done"),
        }
    }
}

/// What is to be done now, and why.
fn due(watch: &Watch, results: &Results, now: i64) -> Option<(Action, String)> {
    let definition = &watch.definition;
    let report = &results.report;
    let challengers = 1..definition.arms.len();
    if definition.rolls_back() {
        if let Some(tripped) = watch.tripped(now) {
            return Some((Action::RollBack, tripped.to_string()));
        }
        if let Some(why) = challengers.clone().find_map(|arm| report.roll_back(arm)) {
            return Some((Action::RollBack, why));
        }
    }
    let (step, since) = watch.step();
    let held = |step: u32| {
        let hold = definition.ramp.get(step as usize);
        hold.is_none_or(|hold| (now - since) as f64 >= hold.hold_s * 1e3)
    };
    let next = step + 1;
    let is_canary = definition.kind == Kind::Canary;
    if is_canary && (next as usize) < definition.ramp.len() {
        let why = "held without harm".to_owned();
        return held(step).then_some((Action::Step(next), why));
    }
    if !definition.auto_promote || !held(step) {
        return None;
    }
    if is_canary {
        // The whole ramp was held and nothing was harmed: else it would have been rolled back.
        let arm = definition.arms[1].name.clone();
        let words = report.comparisons.first().map(|one| one.words.as_str());
        let why = format!(
            "the whole ramp was held without harm; {}",
            words.unwrap_or_default()
        );
        return Some((Action::Promote(arm), why));
    }
    let may = |arm: &usize| report.may_promote(*arm, definition.non_inferior).is_ok();
    let primary = |arm: usize| {
        let one = report.comparisons.iter().find(|one| one.arm == arm)?;
        let primary = one
            .metrics
            .iter()
            .find(|one| matches!(one.role, tidegate_experiments::Role::Primary))?;
        Some(primary.difference.unwrap_or_default().abs())
    };
    let best = challengers.filter(may).max_by(|a, b| {
        primary(*a)
            .partial_cmp(&primary(*b))
            .unwrap_or(std::cmp::Ordering::Equal)
    })?;
    let words = report.comparisons.iter().find(|one| one.arm == best);
    let why = words.map_or_else(String::new, |one| one.words.clone());
    Some((Action::Promote(definition.arms[best].name.clone()), why))
}

impl Followed {
    fn tell(&mut self, hub: &Hub, results: &Results) {
        let definition = &self.watch.definition;
        self.told.tell(hub, definition, &self.state, results);
    }

    /// Counts what the store has up to a sample, with the feedback and refusals that came in between.
    async fn catch_up(&mut self, experiments: &Experiments, until: u64) -> Result<(), StoreError> {
        while self.watch.taken < until {
            let query = SampleQuery {
                endpoint: Some(self.watch.definition.endpoint.clone()),
                cursor: Some(self.watch.taken),
                until: Some(until),
                live_only: true,
                limit: SLICE,
                ..SampleQuery::default()
            };
            let samples = experiments.store().samples(&query).await?;
            for sample in &samples {
                if let Some(seen) = Seen::of_stored(sample) {
                    self.take_rare(experiments, seen.at).await?;
                    self.watch.sample(&seen);
                }
            }
            self.watch.taken = samples.last().map_or(until, |sample| sample.id);
        }
        Ok(())
    }

    /// Counts feedback and refusals up to a moment, in the order of time.
    async fn take_rare(&mut self, experiments: &Experiments, at: i64) -> Result<(), StoreError> {
        loop {
            self.fill(experiments).await?;
            let learned = self.feedback.front().map(|row| row.at);
            let refused = self.refusals.front().map(|row| row.at);
            let feedback_first = match (learned, refused) {
                (Some(learned), Some(refused)) => learned <= refused,
                (learned, _) => learned.is_some(),
            };
            let next = if feedback_first { learned } else { refused };
            if next.is_none_or(|next| next > at) {
                return Ok(());
            }
            if !feedback_first {
                if let Some(row) = self.refusals.pop_front() {
                    self.watch.refused(row.stream, row.at);
                    self.watch.refusals = row.id;
                }
                continue;
            }
            let Some(row) = self.feedback.front() else {
                return Ok(());
            };
            let found = experiments.store().find(row.stream, row.epoch, row.seq);
            if let Some(Known::Sample(sample)) = found.await? {
                self.watch.learn(row, &sample);
            }
            self.watch.feedback = row.id;
            self.feedback.pop_front();
        }
    }

    async fn fill(&mut self, experiments: &Experiments) -> Result<(), StoreError> {
        let (store, endpoint) = (experiments.store(), &self.watch.definition.endpoint);
        if self.feedback.is_empty() && !self.no_feedback {
            let rows = store.feedback_after(endpoint, self.watch.feedback, SLICE);
            self.feedback = rows.await?.into();
            self.no_feedback = self.feedback.len() < SLICE as usize;
        }
        if self.refusals.is_empty() && !self.no_refusals {
            let rows = store.refusals_after(endpoint, self.watch.refusals, SLICE);
            self.refusals = rows.await?.into();
            self.no_refusals = self.refusals.len() < SLICE as usize;
        }
        Ok(())
    }
}
