//! The rig's physics, one second a step: hydraulics in balance, heat by explicit Euler, vibration, and the sensors.
//!
//! Pump curve H = h n^2 - k q^2 against losses (pipe + valve / opening^2) q^2 gives the flow in closed form. The loss
//! at the inlet valve and the vapour margin decide cavitation. Shaft power sets the current and heats engine and
//! water. Units: m of water, l/min, W, degC, s, g; speed is relative to nominal.

use super::fault::Fault;
use super::random::{Random, Wander, Wave};

/// Shaft power per metre and l/min of water, over the pump's efficiency of 0.35: 9.81 / 60 / 0.35 W.
const HYDRAULIC_W: f64 = 0.467;
/// Friction and iron losses of the motor at nominal speed, W.
const FRICTION_W: f64 = 90.0;
/// Heat capacity of the engine body, J/K, and of the water in the tank.
const ENGINE_J_PER_K: f64 = 900.0;
const WATER_J_PER_K: f64 = 90_000.0;
/// Power factor of the motor.
const POWER_FACTOR: f64 = 0.63;

/// What is true inside the rig at one second, before the sensors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Truth {
    pub flow: f64,
    pub pressure_bar: f64,
    pub current: f64,
    pub voltage: f64,
    pub engine_c: f64,
    pub water_c: f64,
    pub cavitation: f64,
    pub vibration: [f64; 2],
}

/// The machine: how this one was built, and its slow states.
#[derive(Debug, Clone)]
pub(super) struct Plant {
    speed: f64,
    head_m: f64,
    pump_loss: f64,
    pipe_loss: f64,
    valve_loss: f64,
    suction_margin_m: f64,
    vibration: [f64; 2],
    cooling_w_per_k: f64,
    wear: f64,
    wear_per_s: f64,
    fan: f64,
    fan_target: f64,
    room_c: f64,
    room_trend: f64,
    engine_c: f64,
    water_c: f64,
    mains: Wander,
    flow_wander: Wander,
    vibration_wander: [Wander; 2],
}

impl Plant {
    /// A rig with levels of its own, warm from some time of running before the first reading.
    pub(super) fn new(r: &mut Random) -> Self {
        let room_c = r.uniform(18.0, 25.0);
        let cooling_w_per_k = r.uniform(2.0, 2.7);
        Self {
            speed: r.uniform(0.96, 1.04),
            head_m: r.uniform(4.7, 5.4),
            pump_loss: r.uniform(0.0011, 0.0013),
            pipe_loss: r.uniform(0.0025, 0.0031),
            valve_loss: r.uniform(0.0008, 0.0010),
            suction_margin_m: r.uniform(1.3, 1.9),
            vibration: [r.uniform(0.025, 0.030), r.uniform(0.037, 0.044)],
            cooling_w_per_k,
            wear: r.uniform(0.0, 0.2),
            wear_per_s: r.uniform(1e-7, 2e-6),
            fan: 0.0,
            fan_target: 0.0,
            room_c,
            room_trend: 0.0,
            engine_c: room_c + 119.0 / cooling_w_per_k + r.uniform(-1.5, 1.5),
            water_c: room_c + r.uniform(2.5, 3.3),
            mains: Wander::new(r, 200.0),
            flow_wander: Wander::new(r, 150.0),
            vibration_wander: [Wander::new(r, 90.0), Wander::new(r, 60.0)],
        }
    }

    /// One second later, under a fault of the given severity.
    pub(super) fn step(&mut self, fault: Fault, severity: f64, r: &mut Random) -> Truth {
        let of = |kind| if fault == kind { severity } else { 0.0 };
        self.wear += self.wear_per_s;
        let voltage = 231.0 + self.mains.step(r);
        let speed = self.speed * (1.0 + 0.0002 * (voltage - 231.0));
        let opening = 1.0 - 0.42 * of(Fault::ValveClosing);
        let (flow, head, cavitation) = self.hydraulics(speed, opening, of(Fault::Cavitation));
        let flow = flow * (1.0 + 0.002 * self.flow_wander.step(r));
        let friction = FRICTION_W * speed * speed * (1.0 + 0.3 * self.wear);
        let power = HYDRAULIC_W * head * flow + friction * (1.0 + 0.04 * of(Fault::Imbalance));
        self.heat(power, flow, r);
        Truth {
            flow,
            pressure_bar: 0.0981 * 0.25 * self.pipe_loss * flow * flow,
            current: power / (voltage * POWER_FACTOR),
            voltage,
            engine_c: self.engine_c,
            water_c: self.water_c,
            cavitation,
            vibration: self.shake(speed, cavitation, of(Fault::Imbalance), r),
        }
    }

    /// Flow, head and the degree of cavitation (0 to 1) at this speed and valve opening (0 to 1). Cavitation is judged
    /// at the flow without it; it then takes up to a third of the head.
    fn hydraulics(&self, speed: f64, opening: f64, air: f64) -> (f64, f64, f64) {
        let valve = self.valve_loss / (opening * opening);
        let losses = self.pump_loss + self.pipe_loss + valve;
        let shut_off = self.head_m * (1.0 - 0.05 * self.wear) * speed * speed;
        let clean_square = shut_off / losses;
        let margin = self.suction_margin_m - valve * clean_square - 3.2 * air;
        let cavitation = (-0.6 * margin).clamp(0.0, 1.0);
        let square = clean_square * (1.0 - 0.3 * cavitation);
        (square.sqrt(), (self.pipe_loss + valve) * square, cavitation)
    }

    /// Engine and water give heat to a room that drifts, under a fan that now and then changes its pace.
    fn heat(&mut self, power: f64, flow: f64, r: &mut Random) {
        if r.chance(1.0 / 1500.0) {
            self.fan_target = r.uniform(-0.06, 0.10);
        }
        if r.chance(1.0 / 900.0) {
            self.room_trend = r.uniform(-1e-4, 1e-4) - 2e-5 * (self.room_c - 21.5);
        }
        self.fan += (self.fan_target - self.fan) / 60.0;
        self.room_c += self.room_trend;
        let engine_loss = self.cooling_w_per_k * (1.0 + self.fan) * (self.engine_c - self.room_c);
        let into_water = 0.45 * power + 0.02 * flow;
        self.engine_c += (0.85 * power - engine_loss) / ENGINE_J_PER_K;
        self.water_c += (into_water - 22.0 * (self.water_c - self.room_c)) / WATER_J_PER_K;
    }

    /// RMS acceleration at the motor and at the pump.
    fn shake(&mut self, speed: f64, cavitation: f64, imbalance: f64, r: &mut Random) -> [f64; 2] {
        let square = speed * speed;
        let worn = 1.0 + 0.25 * self.wear;
        let wander = [
            1.0 + 0.007 * self.vibration_wander[0].step(r),
            1.0 + 0.010 * self.vibration_wander[1].step(r),
        ];
        [
            self.vibration[0] * square * wander[0] * (worn + 0.14 * imbalance + 0.06 * cavitation),
            self.vibration[1] * square * wander[1] * (worn + 0.06 * imbalance + 0.16 * cavitation),
        ]
    }
}

/// The eight sensors: noise, hum, steps.
#[derive(Debug, Clone)]
pub(super) struct Sensors {
    hum: Wave,
    hum_a: f64,
    sway: Wave,
    sway_rel: f64,
    pressure_offset: f64,
    puff: f64,
    puff_drive: f64,
    pulses: f64,
}

/// Steps of the pressure sensor (bar) and of the flow meter (pulses per l/min).
const PRESSURE_STEP: f64 = 0.33;
const FLOW_PULSES: f64 = 3.0;

impl Sensors {
    pub(super) fn new(r: &mut Random) -> Self {
        let (hum_s, sway_s) = (r.uniform(50.0, 120.0), r.uniform(30.0, 90.0));
        Self {
            hum: Wave::new(r, hum_s),
            hum_a: r.uniform(0.20, 0.32),
            sway: Wave::new(r, sway_s),
            sway_rel: r.uniform(0.004, 0.016),
            pressure_offset: r.uniform(-0.1, 0.1),
            puff: 0.0,
            puff_drive: 0.0,
            pulses: 0.0,
        }
    }

    /// What the sensors say of the truth, in the order of the reading. The current beats slowly against the sampling
    /// clock (`hum`), the pump foot sways, and the thermocouple sometimes meets a puff of warmer water.
    pub(super) fn read(&mut self, t: &Truth, r: &mut Random) -> [f32; 8] {
        let rough = 1.0 + 2.0 * t.cavitation;
        let hum = self.hum_a * self.hum.step();
        let sway = 1.0 + self.sway_rel * self.sway.step();
        self.puff_of_warmth(r);
        let pressure = t.pressure_bar + 0.24 * rough * r.noise();
        [
            t.vibration[0] * (1.0 + 0.010 * rough * r.noise()),
            t.vibration[1] * sway * (1.0 + 0.012 * rough * r.noise()),
            (t.current + hum + 0.19 * rough * r.noise()).max(0.0),
            self.pressure_offset + stepped(pressure, PRESSURE_STEP),
            t.engine_c + 0.10 * r.noise(),
            t.water_c + self.puff + 0.010 * r.noise(),
            t.voltage + 10.5 * r.noise(),
            self.pulses_of(t.flow + 0.30 * rough * r.noise()),
        ]
        .map(|v| v as f32)
    }

    fn puff_of_warmth(&mut self, r: &mut Random) {
        if r.chance(1.0 / 1800.0) {
            self.puff_drive = r.uniform(0.001, 0.005);
        }
        self.puff_drive -= self.puff_drive / 12.0;
        self.puff += self.puff_drive - self.puff / 18.0;
    }

    /// The meter counts whole pulses a second and carries the rest over, hence its see-saw of neighbouring values.
    fn pulses_of(&mut self, flow: f64) -> f64 {
        let due = flow.max(0.0) * FLOW_PULSES + self.pulses;
        let whole = due.floor();
        self.pulses = due - whole;
        whole / FLOW_PULSES
    }
}

fn stepped(value: f64, step: f64) -> f64 {
    (value / step).round() * step
}
