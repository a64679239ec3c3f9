-- Experiments: what was declared, what became of it, and who was drawn into which arm.

CREATE TABLE experiments (
    id             INTEGER PRIMARY KEY,
    name           TEXT NOT NULL UNIQUE,
    endpoint       TEXT NOT NULL,
    definition     TEXT NOT NULL,             -- JSON, as declared; never changes
    state          TEXT NOT NULL,             -- running, paused, stopped, promoted, rolled_back: what the newest row of its history led to
    step           INTEGER NOT NULL DEFAULT 0, -- of a canary's ramp
    first_sample   INTEGER NOT NULL,          -- what is committed behind these ids is what its analysis reads
    first_feedback INTEGER NOT NULL,
    first_refusal  INTEGER NOT NULL,
    created        INTEGER NOT NULL
) STRICT;

-- Append-only.
CREATE TABLE experiment_history (
    id            INTEGER PRIMARY KEY,
    experiment_id INTEGER NOT NULL REFERENCES experiments (id),
    at            INTEGER NOT NULL,
    actor         TEXT NOT NULL,
    what          TEXT NOT NULL,
    evidence      TEXT NOT NULL
) STRICT;
CREATE INDEX experiment_history_by_experiment ON experiment_history (experiment_id);

-- Written with the switch that put the arm's version on the device's stream. A ramp may draw a device anew, into another arm.
CREATE TABLE assignments (
    experiment_id INTEGER NOT NULL REFERENCES experiments (id),
    device        TEXT NOT NULL,
    arm           INTEGER NOT NULL,
    bucket        INTEGER NOT NULL,
    propensity    REAL NOT NULL,
    at            INTEGER NOT NULL,
    PRIMARY KEY (experiment_id, device, arm)
) STRICT, WITHOUT ROWID;
