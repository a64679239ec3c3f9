/**
 * The endpoints of the stand-in, one for each task, with toy answers: shapes as in `protocol/README.md`, numbers made up.
 */

export const SENSORS = [
  ["Accelerometer1RMS", "g", 0.027, 0.0006, [0, 5]],
  ["Accelerometer2RMS", "g", 0.04, 0.0008, [0, 5]],
  ["Current", "A", 1.33, 0.25, [0, 20]],
  ["Pressure", "bar", 0.055, 0.2, [-2, 10]],
  ["Temperature", "degC", 79.3, 0.15, [-20, 150]],
  ["Thermocouple", "degC", 26.0, 0.02, [-20, 150]],
  ["Voltage", "V", 233.1, 1.2, [0, 400]],
  ["Volume Flow RateRMS", "l/min", 32.0, 0.25, [0, 200]],
];
const TEMPERATURE = 4;
const FLOW = 7;
const LABELS = ["healthy", "valve closed", "cavitation", "imbalance"];
const HORIZON = [10, 30, 60, 120];

export function gauss() {
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}

/** How far the readings lie from the usual, smoothed: what every toy answer is made of. */
function distance(s, values) {
  const off = values.reduce((sum, v, i) => sum + ((v - SENSORS[i][2]) / SENSORS[i][3]) ** 2, 0);
  s.ewma = 0.85 * (s.ewma ?? 0) + 0.15 * off;
  return s.ewma;
}

function anomaly(s, values, calibration) {
  if (s.seen <= calibration) return { calibrating: { seen: s.seen, needed: calibration } };
  const score = distance(s, values);
  return { score, threshold: 16.8, anomaly: score > 16.8 };
}

function classification(s, values) {
  const off = distance(s, values);
  const at = Date.now() / 9000 + s.phase;
  const logits = [4 - off / 12, (SENSORS[FLOW][2] - values[FLOW]) / 0.8, 2.2 * Math.sin(at), 1.6 * Math.cos(at / 1.7)];
  s.logits = logits.map((l, i) => 0.9 * (s.logits?.[i] ?? l) + 0.1 * l);
  const powers = s.logits.map((l) => Math.exp(l));
  const sum = powers.reduce((a, b) => a + b);
  const probabilities = Object.fromEntries(LABELS.map((label, i) => [label, powers[i] / sum]));
  return { label: LABELS[s.logits.indexOf(Math.max(...s.logits))], probabilities };
}

function regression(s, values) {
  const off = distance(s, values);
  s.hours = Math.max(0, (s.hours ?? 400) - 0.02 - off / 2000);
  return { values: { hours_left: s.hours + gauss(), wear: 1 - s.hours / 500 } };
}

function forecast(s, values) {
  s.level = 0.8 * (s.level ?? values[TEMPERATURE]) + 0.2 * values[TEMPERATURE];
  const steps = HORIZON.map((h) => SENSORS[TEMPERATURE][2] + (s.level - SENSORS[TEMPERATURE][2]) * Math.exp(-h / 90));
  const spread = (z) => steps.map((y, i) => y + z * 0.02 * Math.sqrt(HORIZON[i]));
  return { horizon: HORIZON, values: steps, quantiles: { 0.05: spread(-1.6), 0.25: spread(-0.7), 0.75: spread(0.7), 0.95: spread(1.6) } };
}

const sensors = SENSORS.map(([name, unit, , , range]) => ({ name, unit, range, hard_range: null }));
const endpoint = (name, task, description, production, versions, answer, head = {}) => ({
  answer,
  public: { name, description, revision: 1, task, features: sensors, default: production, production, head, versions },
});

export const ENDPOINTS = new Map(
  [
    endpoint("pump-health", "anomaly", "Anomalies of a water pump from eight sensors", "mewma/1.0.0", ["mewma/1.0.0", "mewma/1.1.0", "autoencoder/1.0.0"], anomaly),
    endpoint("rig-state", "classification", "What ails this pump, if anything?", "forest/1.1.0", ["forest/1.0.0", "forest/1.1.0", "extra-trees/1.0.0"], classification),
    endpoint("rig-forecast", "forecast", "How warm will this pump's engine be within two minutes?", "gru/1.0.0", ["gru/1.0.0", "gru-onnx/1.0.0"], forecast, {
      target: "Temperature", unit: "degC", horizon: HORIZON,
    }),
    endpoint("rig-life", "regression", "How many hours until service?", "linear/1.0.0", ["linear/1.0.0"], regression, {
      values: [{ name: "hours_left", unit: "h" }, { name: "wear" }],
    }),
  ].map((one) => [one.public.name, one]),
);

/** Values of rig `i` at `t` (ms): noise, a slow swing, and now and then a fault. */
export function reading(i, t, noise = gauss) {
  const fault = (t / 1000 + i * 17) % (40 + 9 * (i % 5)) < (i % 4 === 0 ? 9 : 2) ? 1 : 0;
  const slow = Math.sin(t / 21_000 + i);
  return SENSORS.map(([, , mean, sd], f) => {
    const shift = fault * [0, 2, 0, 4, 0, 0, 0, -9][f];
    return mean + sd * (0.7 * noise() + 0.5 * slow * Math.cos(f) + shift);
  });
}
