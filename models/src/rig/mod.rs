//! A small simulation of a water-circulation rig: motor, centrifugal pump, valve at its inlet, pipe, tank.
//!
//! It feeds the demo, trains the autoencoder and serves the tests, so it depends on nothing and is exactly
//! repeatable: one seed gives the same bits everywhere (additions, multiplications, divisions and square roots only).
//! A reading a second, eight sensors in the order of [`SENSORS`]; levels, noise and steps of the sensors are those
//! of a laboratory rig, and every seed builds a rig with levels of its own. Faults come and go as a [`FaultPlan`]
//! says; wear, a draughty room and a fan that switches are part of a healthy life and stay unlabelled.

mod fault;
mod physics;
mod random;

pub use fault::{Episode, Fault, FaultPlan};
pub use random::Random;

use fault::Schedule;
use physics::{Plant, Sensors};

/// Names and units of a reading's eight values, in order.
pub const SENSORS: [(&str, &str); 8] = [
    ("accelerometer_1_rms", "g"),
    ("accelerometer_2_rms", "g"),
    ("current", "A"),
    ("pressure", "bar"),
    ("temperature", "degC"),
    ("thermocouple", "degC"),
    ("voltage", "V"),
    ("volume_flow_rate", "l/min"),
];

/// Healthy readings at the start of a demo rig: a detector's calibration and a little quiet after it.
pub const HEALTHY_FIRST: u32 = 450;

/// A rig under way.
///
/// ```
/// use tidegate_models::rig::Rig;
/// let mut rig = Rig::new(7);
/// let (values, fault) = rig.next_reading();
/// assert!(values.iter().all(|v| v.is_finite()));
/// assert!(!fault.is_fault());
/// ```
#[derive(Debug, Clone)]
pub struct Rig {
    random: Random,
    plant: Plant,
    sensors: Sensors,
    schedule: Schedule,
    reading: u64,
}

impl Rig {
    /// A demo rig: [`HEALTHY_FIRST`] healthy readings, then faults at random.
    pub fn new(seed: u64) -> Self {
        Self::with_plan(
            seed,
            FaultPlan::Random {
                healthy_first: HEALTHY_FIRST,
            },
        )
    }

    /// A rig that never fails, for training and false-alarm figures.
    pub fn healthy(seed: u64) -> Self {
        Self::with_plan(seed, FaultPlan::Never)
    }

    /// A rig whose faults follow `plan`.
    pub fn with_plan(seed: u64, plan: FaultPlan) -> Self {
        let mut random = Random::new(seed);
        let plant = Plant::new(&mut random);
        let sensors = Sensors::new(&mut random);
        Self {
            random,
            plant,
            sensors,
            schedule: Schedule::new(plan),
            reading: 0,
        }
    }

    /// Replaces the plan from the next reading on; listed episodes count readings since the rig started.
    pub fn set_faults(&mut self, plan: FaultPlan) {
        self.schedule = Schedule::new(plan);
    }

    /// One second later: the eight values in the order of [`SENSORS`] and what truly ailed the rig.
    pub fn next_reading(&mut self) -> ([f32; 8], Fault) {
        let (fault, severity) = self.schedule.at(self.reading, &mut self.random);
        let truth = self.plant.step(fault, severity, &mut self.random);
        let values = self.sensors.read(&truth, &mut self.random);
        self.reading += 1;
        (values, fault)
    }

    /// Readings given so far, which is also the rig's age in seconds.
    pub fn readings(&self) -> u64 {
        self.reading
    }
}

#[cfg(test)]
mod tests;
