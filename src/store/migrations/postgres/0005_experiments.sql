-- Experiments: what was declared, what became of it, and who was drawn into which arm.

CREATE TABLE experiments (
    id             BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name           TEXT NOT NULL UNIQUE,
    endpoint       TEXT NOT NULL,
    definition     TEXT NOT NULL,              -- JSON, as declared; never changes
    state          TEXT NOT NULL,              -- running, paused, stopped, promoted, rolled_back: what the newest row of its history led to
    step           BIGINT NOT NULL DEFAULT 0,  -- of a canary's ramp
    first_sample   BIGINT NOT NULL,            -- what is committed behind these ids is what its analysis reads
    first_feedback BIGINT NOT NULL,
    first_refusal  BIGINT NOT NULL,
    created        BIGINT NOT NULL
);

-- Append-only.
CREATE TABLE experiment_history (
    id            BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    experiment_id BIGINT NOT NULL,
    at            BIGINT NOT NULL,
    actor         TEXT NOT NULL,
    what          TEXT NOT NULL,
    evidence      TEXT NOT NULL
);
CREATE INDEX experiment_history_by_experiment ON experiment_history (experiment_id);

-- Written with the switch that put the arm's version on the device's stream. A ramp may draw a device anew, into another arm.
CREATE TABLE assignments (
    experiment_id BIGINT NOT NULL,
    device        TEXT NOT NULL,
    arm           BIGINT NOT NULL,
    bucket        BIGINT NOT NULL,
    propensity    DOUBLE PRECISION NOT NULL,
    at            BIGINT NOT NULL,
    PRIMARY KEY (experiment_id, device, arm)
);
