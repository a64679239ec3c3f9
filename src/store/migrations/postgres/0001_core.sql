-- Core tables. Times are Unix ms, values little-endian f32, outputs bincode ("wire bytes"), hashes 32 raw bytes.
-- Numbers that the code holds unsigned are at most 2^53-1. Nothing checks foreign keys: the rows of a commit follow from each other.

-- One row: which log this is (a copied or new database is another log), and who may write it: every server that opens it raises `fence`.
CREATE TABLE log (
    id      TEXT NOT NULL,
    created BIGINT NOT NULL,
    fence   BIGINT NOT NULL DEFAULT 0
);

-- A changed schema is a new revision; samples keep theirs through the version that served them.
CREATE TABLE endpoints (
    name     TEXT NOT NULL,
    revision BIGINT NOT NULL,
    manifest TEXT NOT NULL,
    seen_at  BIGINT NOT NULL,
    PRIMARY KEY (name, revision)
);

CREATE TABLE versions (
    id       BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    endpoint TEXT NOT NULL,
    model    TEXT NOT NULL,
    version  TEXT NOT NULL,
    hash     BYTEA NOT NULL,
    seen_at  BIGINT NOT NULL,
    UNIQUE (endpoint, model, version)
);

-- Append-only: who moved which version to which status, when and why.
CREATE TABLE status_changes (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    version_id BIGINT NOT NULL,
    status     TEXT NOT NULL,
    at         BIGINT NOT NULL,
    actor      TEXT NOT NULL,
    reason     TEXT NOT NULL
);

-- One row a stream. `pos` is the compare-and-set of every commit; `high_water` the highest number consumed in `epoch`.
-- An import is a stream of its own beside the device's live one; `import` is its epoch, 0 for the live stream.
-- Every commit moves the rows of its streams. Half-full pages keep the new version of a row beside the old one, off the indexes.
CREATE TABLE streams (
    id          BIGINT PRIMARY KEY,            -- given by the server
    pos         BIGINT NOT NULL,
    epoch       BIGINT NOT NULL,
    high_water  BIGINT,
    last_ts     BIGINT,
    last_seen   BIGINT NOT NULL,
    samples     BIGINT NOT NULL DEFAULT 0,     -- ever taken, retired ones included
    created     BIGINT NOT NULL,
    import      BIGINT NOT NULL DEFAULT 0,
    generation  BIGINT NOT NULL DEFAULT 0,
    fence       BIGINT NOT NULL DEFAULT 0,
    mode        INTEGER NOT NULL,              -- 0 open, 1 numbered by the device, 2 by the server
    last_part   INTEGER NOT NULL DEFAULT 0,    -- part that its newest sample went to, 0 without one
    endpoint    TEXT COLLATE "C" NOT NULL,
    device      TEXT COLLATE "C" NOT NULL,
    UNIQUE (endpoint, device, import)
) WITH (fillfactor = 50);
CREATE INDEX streams_by_device ON streams (device);

-- The rows of a stream's log that are no readings: version switches, resets, epoch starts.
CREATE TABLE stream_log (
    stream_id  BIGINT NOT NULL,
    pos        BIGINT NOT NULL,
    sample_id  BIGINT NOT NULL,                -- as in `snapshots`
    kind       INTEGER NOT NULL,               -- 1 switch, 2 reset, 3 epoch
    epoch      BIGINT NOT NULL,
    version_id BIGINT,
    arm        TEXT,
    propensity DOUBLE PRECISION,
    warm_from  BIGINT,
    reason     TEXT NOT NULL,
    at         BIGINT NOT NULL,
    PRIMARY KEY (stream_id, pos)
);

-- Model state behind position `pos`. Folding the log after `pos` gives every later state, bit for bit.
CREATE TABLE snapshots (
    stream_id    BIGINT NOT NULL,
    pos          BIGINT NOT NULL,
    sample_id    BIGINT NOT NULL,              -- the stream's samples behind the row have higher ids, those before it none
    version_id   BIGINT NOT NULL,
    layout       TEXT NOT NULL,
    numerics_rev INTEGER NOT NULL,
    last_ts      BIGINT,
    state        BYTEA NOT NULL,
    PRIMARY KEY (stream_id, pos)
);
-- States are floats: they do not shrink, so nobody tries.
ALTER TABLE snapshots ALTER COLUMN state SET STORAGE EXTERNAL;

-- The readings that a stream was calibrated on, kept beyond retention so that a new version can learn from the same.
CREATE TABLE calibrations (
    stream_id BIGINT NOT NULL,
    pos       BIGINT NOT NULL,
    ts        BIGINT NOT NULL,
    "values"  BYTEA NOT NULL,
    PRIMARY KEY (stream_id, pos)
);

-- Skipped ranges that may still come late, both ends inclusive.
CREATE TABLE gaps (
    stream_id BIGINT NOT NULL,
    epoch     BIGINT NOT NULL,
    from_seq  BIGINT NOT NULL,
    to_seq    BIGINT NOT NULL,
    PRIMARY KEY (stream_id, epoch, from_seq)
);

-- The samples, cut into parts; a part begins when the day of arrival changes or the one before has enough. Ids rise from part to part,
-- whatever the clock does, so a range of ids is a range of parts, and a read opens no other. A part is dropped whole; what a fold
-- still needs of it goes to part 0, which is older than all.
CREATE TABLE sample_parts (
    part     INTEGER PRIMARY KEY,
    day      INTEGER NOT NULL,                 -- of arrival by the server's clock: days since 1970-01-01, UTC
    first_id BIGINT NOT NULL                   -- no sample of the part has a lower id
);
INSERT INTO sample_parts (part, day, first_id) VALUES (0, 0, 0);

-- No unique index holds across partitions: that a number is taken once rests on the compare-and-set of its stream.
CREATE TABLE samples (
    id           BIGINT NOT NULL,              -- given by the writer in commit order
    stream_id    BIGINT NOT NULL,
    pos          BIGINT NOT NULL,
    epoch        BIGINT NOT NULL,
    seq          BIGINT NOT NULL,
    ts           BIGINT NOT NULL,
    received_at  BIGINT NOT NULL,
    version_id   BIGINT NOT NULL,
    latency_us   BIGINT NOT NULL,
    part         INTEGER NOT NULL,
    flags        INTEGER NOT NULL,
    numerics_rev INTEGER NOT NULL,
    "values"     BYTEA NOT NULL,
    output       BYTEA NOT NULL,
    arm          TEXT
) PARTITION BY LIST (part);
ALTER TABLE samples ALTER COLUMN "values" SET STORAGE EXTERNAL;
CREATE INDEX samples_by_id ON samples (id);
CREATE INDEX samples_by_number ON samples (stream_id, epoch, seq);
-- One stream's samples in commit order, which is the order of `pos` too.
CREATE INDEX samples_by_stream ON samples (stream_id, id);
CREATE TABLE samples_p0 PARTITION OF samples FOR VALUES IN (0);

CREATE TABLE shadow_predictions (
    sample_id  BIGINT NOT NULL,
    version_id BIGINT NOT NULL,
    output     BYTEA NOT NULL,
    latency_us BIGINT NOT NULL,
    PRIMARY KEY (sample_id, version_id)
);

CREATE TABLE feedback (
    id        BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream_id BIGINT NOT NULL,
    epoch     BIGINT NOT NULL,
    seq       BIGINT NOT NULL,
    label     TEXT,
    number    REAL,
    at        BIGINT NOT NULL
);
CREATE INDEX feedback_by_number ON feedback (stream_id, epoch, seq);

-- Readings that will never be taken. `consumed` tells that the refusal used up the number.
CREATE TABLE refusals (
    id        BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream_id BIGINT NOT NULL,
    pos       BIGINT NOT NULL,
    epoch     BIGINT NOT NULL,
    seq       BIGINT,
    code      TEXT NOT NULL,
    message   TEXT NOT NULL,
    consumed  BOOLEAN NOT NULL,
    at        BIGINT NOT NULL
);
CREATE INDEX refusals_by_number ON refusals (stream_id, epoch, seq);

-- What a consumer of the committed log has taken in; moved in the transaction that stores what it made of it.
CREATE TABLE consumers (
    name      TEXT PRIMARY KEY,
    sample_id BIGINT NOT NULL
);

-- A stream's readings over a minute or an hour of measured time. Sums, so that two rows of one bucket add up.
CREATE TABLE rollups (
    stream_id BIGINT NOT NULL,
    span_s    INTEGER NOT NULL,                -- 60 or 3600
    start     BIGINT NOT NULL,                 -- Unix ms, a multiple of the span
    count     BIGINT NOT NULL,                 -- readings taken
    scored    BIGINT NOT NULL,                 -- of them with a score, or a first value of a regression or forecast
    anomalies BIGINT NOT NULL,                 -- of them called an anomaly
    failed    BIGINT NOT NULL,                 -- of them whose step failed
    score     BYTEA NOT NULL,                  -- count u64, sum f64, min f32, max f32, little-endian
    features  BYTEA NOT NULL,                  -- the same for each feature, in order; missing values are not counted
    at        BIGINT NOT NULL,                 -- when it was last added to, Unix ms: its age, for a back-fill is not old
    PRIMARY KEY (stream_id, span_s, start)
);
CREATE INDEX rollups_by_age ON rollups (span_s, at);

-- MQTT publishes that were taken, for as long as the broker may deliver them again. Only those whose readings carry no number of their own.

-- The broker's session of each client (`NODE-in@host:port`), counted. A broker that lost it begins another one, in which the same packet
-- ids name other publishes.
CREATE TABLE mqtt_sessions (
    client  TEXT PRIMARY KEY,
    session BIGINT NOT NULL
);

-- Written in the commit that holds the rows of the publish, and cut there to the publishes that may be unacknowledged at once.
CREATE TABLE mqtt_receipts (
    client  TEXT NOT NULL,
    place   BIGINT NOT NULL,                   -- counts the client's publishes here, over sessions and restarts
    session BIGINT NOT NULL,
    taken   BIGINT NOT NULL,                   -- messages of the publish that are stored; a batch may be stored in parts
    packet  INTEGER NOT NULL,                  -- packet id
    hash    BYTEA NOT NULL,                    -- SHA-256 of topic, properties and payload
    PRIMARY KEY (client, place)
);
