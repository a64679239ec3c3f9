//! The task of all challengers in the shadow: answers committed readings behind the road, stores the predictions, and acts on what they come to.
//!
//! Apart from the task that counts arms ([`super::follow()`]), so that a slow challenger keeps nobody waiting. After a restart what is stored is
//! counted again; readings that came while no challenger was there have no prediction and are left out.

use super::follow::{BY_ITSELF, Inbox, LOOK, MOST_WHY, SLICE};
use super::shadow::{Read, Shadow};
use super::told::Told;
use super::{Action, Experiments, Kept, Kind, state};
use crate::push::Hub;
use crate::registry::Asked;
use crate::store::{Known, SampleQuery, ShadowRow, StoreError};
use crate::stream::now_ms;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Predictions in memory before they are stored.
const MOST_UNSTORED: usize = 1_000;

/// Answers committed readings until `stop`.
pub async fn shade(
    experiments: Arc<Experiments>,
    hub: Arc<Hub>,
    inbox: Inbox,
    stop: CancellationToken,
) {
    let mut shader = Shader {
        experiments,
        hub,
        told: HashMap::new(),
        inbox,
        shadows: HashMap::new(),
        unstored: Vec::new(),
    };
    tokio::select! {
        () = shader.run() => {}
        () = stop.cancelled() => {}
    }
}

struct Shader {
    experiments: Arc<Experiments>,
    hub: Arc<Hub>,
    inbox: Inbox,
    /// By row id, ended ones included.
    told: HashMap<i64, Told>,
    /// By row id.
    shadows: HashMap<i64, Shadow>,
    unstored: Vec<ShadowRow>,
}

impl Shader {
    async fn run(&mut self) {
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut changes = self.experiments.board().changes();
        loop {
            let done = tokio::select! {
                _ = tick.tick() => self.look().await,
                Ok(()) = changes.changed() => self.meet().await,
                batch = self.inbox.queue.recv() => match batch {
                    Some(batch) => self.take(&batch).await,
                    None => return,
                },
            };
            if let Err(error) = done {
                tracing::warn!(%error, "shadows wait: the store does not answer");
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    /// Begins what has begun, leaves what is over, and tells the writer whose readings are wanted.
    async fn meet(&mut self) -> Result<(), StoreError> {
        let all = self.experiments.all();
        let is_here = |kept: &&Arc<Kept>| {
            kept.row.state == state::RUNNING && kept.definition.kind == Kind::Shadow
        };
        for (id, shadow) in &mut self.shadows {
            if let Some(kept) = all.iter().find(|kept| kept.row.id == *id)
                && !is_here(&kept)
            {
                // The last word.
                let results = shadow.results(now_ms());
                let told = self.told.entry(*id).or_default();
                told.tell(&self.hub, &shadow.definition, &kept.row.state, &results);
                self.experiments.show(*id, results);
            }
        }
        self.shadows
            .retain(|id, _| all.iter().filter(is_here).any(|kept| kept.row.id == *id));
        for kept in all.iter().filter(is_here) {
            if self.shadows.contains_key(&kept.row.id) {
                continue;
            }
            let engine = self.experiments.engine();
            match Shadow::new(&kept.row, &kept.definition, &engine) {
                Ok(mut shadow) => {
                    // From here on what is committed comes through the queue, or is read from the store.
                    self.inbox.shared.want(&kept.definition.endpoint);
                    let newest = self.inbox.shared.newest.load(Ordering::Acquire);
                    recall(&mut shadow, &self.experiments, newest).await?;
                    self.shadows.insert(kept.row.id, shadow);
                }
                Err(error) => {
                    tracing::warn!(%error, experiment = kept.definition.name, "no shadow");
                }
            }
        }
        let wanted = self
            .shadows
            .values()
            .map(|one| one.definition.endpoint.clone());
        self.inbox.shared.want_only(wanted.collect());
        Ok(())
    }

    async fn take(&mut self, batch: &super::follow::Batch) -> Result<(), StoreError> {
        let Some((first, _)) = batch.first() else {
            return Ok(());
        };
        if self.inbox.shared.lagged.swap(false, Ordering::AcqRel) {
            self.catch_up(first - 1).await?;
        }
        self.forget_resets();
        for (id, row) in batch {
            let endpoint = row.stream.key.endpoint.as_str();
            for shadow in self.shadows.values_mut() {
                if shadow.definition.endpoint == endpoint
                    && row.stream.key.is_live()
                    && shadow.taken < *id
                {
                    let store = self.experiments.store();
                    let rows = shadow.answer(store, &Read::of(*id, row)).await?;
                    self.unstored.extend(rows);
                    shadow.taken = *id;
                }
            }
            if self.unstored.len() >= MOST_UNSTORED {
                self.store().await?;
            }
            // Others of this thread get their turn: a challenger may be dear.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn forget_resets(&mut self) {
        let resets = std::mem::take(&mut *self.inbox.shared.resets.lock());
        for stream in resets {
            for shadow in self.shadows.values_mut() {
                shadow.forget(stream);
            }
        }
    }

    /// Answers what did not fit in the queue.
    async fn catch_up(&mut self, until: u64) -> Result<(), StoreError> {
        for shadow in self.shadows.values_mut() {
            while shadow.taken < until {
                let store = self.experiments.store();
                let samples = store.samples(&slice_of(shadow, until)).await?;
                for sample in &samples {
                    let rows = shadow.answer(store, &Read::of_stored(sample)).await?;
                    self.unstored.extend(rows);
                    shadow.taken = sample.id;
                }
                if samples.is_empty() {
                    shadow.taken = until;
                }
            }
        }
        self.store().await
    }

    async fn store(&mut self) -> Result<(), StoreError> {
        if !self.unstored.is_empty() {
            self.experiments
                .store()
                .store_shadows(&self.unstored)
                .await?;
            self.unstored.clear();
        }
        Ok(())
    }

    /// Stores, counts feedback, tells, and does what follows.
    async fn look(&mut self) -> Result<(), StoreError> {
        self.meet().await?;
        if self.inbox.shared.lagged.swap(false, Ordering::AcqRel) {
            let newest = self.inbox.shared.newest.load(Ordering::Acquire);
            self.catch_up(newest).await?;
        }
        self.store().await?;
        let now = now_ms();
        let ids: Vec<i64> = self.shadows.keys().copied().collect();
        for id in ids {
            let Some(shadow) = self.shadows.get_mut(&id) else {
                continue;
            };
            learn(shadow, &self.experiments).await?;
            let results = shadow.results(now);
            let action = due(shadow, &results.report, now);
            let told = self.told.entry(id).or_default();
            told.tell(&self.hub, &shadow.definition, state::RUNNING, &results);
            self.experiments.show(id, results);
            let Some((action, why)) = action else {
                continue;
            };
            let asked = Asked {
                who: BY_ITSELF.to_owned(),
                why: why.chars().take(MOST_WHY).collect(),
            };
            let name = shadow.definition.name.clone();
            if let Err(error) = self.experiments.change(&name, &action, &asked).await {
                tracing::warn!(%error, experiment = name, "not done");
            }
        }
        Ok(())
    }
}

fn slice_of(shadow: &Shadow, until: u64) -> SampleQuery {
    SampleQuery {
        endpoint: Some(shadow.definition.endpoint.clone()),
        cursor: Some(shadow.taken),
        until: Some(until),
        live_only: true,
        limit: SLICE,
        ..SampleQuery::default()
    }
}

/// What is to be done, and why.
fn due(
    shadow: &Shadow,
    report: &tidegate_experiments::verdict::Report,
    now: i64,
) -> Option<(Action, String)> {
    let definition = &shadow.definition;
    let challengers = 1..definition.arms.len();
    if definition.rolls_back() {
        if let Some(tripped) = shadow.tripped(now) {
            return Some((Action::RollBack, tripped.to_string()));
        }
        if let Some(why) = challengers.clone().find_map(|arm| report.roll_back(arm)) {
            return Some((Action::RollBack, why));
        }
    }
    let is_due = definition.auto_promote && report.elapsed_ms as f64 >= definition.min_s * 1e3;
    let may = |arm: &usize| report.may_promote(*arm, definition.non_inferior).is_ok();
    let best = challengers.filter(|_| is_due).find(may)?;
    let words = report.comparisons.iter().find(|one| one.arm == best);
    let why = words.map_or_else(String::new, |one| one.words.clone());
    Some((Action::Promote(definition.arms[best].name.clone()), why))
}

/// Counts what is stored of a shadow since it began.
async fn recall(
    shadow: &mut Shadow,
    experiments: &Experiments,
    until: u64,
) -> Result<(), StoreError> {
    let store = experiments.store();
    let versions = shadow.versions();
    while shadow.taken < until {
        let samples = store.samples(&slice_of(shadow, until)).await?;
        let Some(last) = samples.last() else {
            shadow.taken = until;
            break;
        };
        let stored = store.shadows(shadow.taken, last.id).await?;
        let mut by_sample: HashMap<(u64, i64), ShadowRow> = stored
            .into_iter()
            .map(|row| ((row.sample, row.version), row))
            .collect();
        for sample in &samples {
            let rows = versions
                .iter()
                .map(|version| by_sample.remove(&(sample.id, *version)));
            shadow.recall(&Read::of_stored(sample), &rows.collect::<Vec<_>>());
        }
        shadow.taken = last.id;
    }
    Ok(())
}

/// Counts feedback that came since the last look.
async fn learn(shadow: &mut Shadow, experiments: &Experiments) -> Result<(), StoreError> {
    let store = experiments.store();
    let versions = shadow.versions();
    loop {
        let endpoint = shadow.definition.endpoint.clone();
        let rows = store
            .feedback_after(&endpoint, shadow.feedback, SLICE)
            .await?;
        for row in &rows {
            let found = store.find(row.stream, row.epoch, row.seq).await?;
            if let Some(Known::Sample(sample)) = found {
                let stored = store.shadows(sample.id - 1, sample.id).await?;
                let of = |version: &i64| stored.iter().find(|row| row.version == *version).cloned();
                let answers: Vec<_> = versions.iter().map(of).collect();
                shadow.learn(row, &sample, &answers);
            }
            shadow.feedback = row.id;
        }
        if rows.len() < SLICE as usize {
            return Ok(());
        }
    }
}
