-- Core tables. Times are Unix ms, values little-endian f32, outputs bincode ("wire bytes"), hashes 32 raw bytes.
-- Everything but `samples` is small and stays; `samples` is what retention cuts (in id slices here).

-- One row: which log this is (a copied or new database is another log), and who may write it.
CREATE TABLE log (
    id       TEXT NOT NULL,
    created  INTEGER NOT NULL,
    fence    INTEGER NOT NULL DEFAULT 0
) STRICT;

-- A changed schema is a new revision; samples keep theirs through the version that served them.
CREATE TABLE endpoints (
    name     TEXT NOT NULL,
    revision INTEGER NOT NULL,
    manifest TEXT NOT NULL,
    seen_at  INTEGER NOT NULL,
    PRIMARY KEY (name, revision)
) STRICT, WITHOUT ROWID;

CREATE TABLE versions (
    id       INTEGER PRIMARY KEY,
    endpoint TEXT NOT NULL,
    model    TEXT NOT NULL,
    version  TEXT NOT NULL,
    hash     BLOB NOT NULL,
    seen_at  INTEGER NOT NULL,
    UNIQUE (endpoint, model, version)
) STRICT;

-- Append-only: who moved which version to which status, when and why.
CREATE TABLE status_changes (
    id         INTEGER PRIMARY KEY,
    version_id INTEGER NOT NULL REFERENCES versions (id),
    status     TEXT NOT NULL,
    at         INTEGER NOT NULL,
    actor      TEXT NOT NULL,
    reason     TEXT NOT NULL
) STRICT;

-- One row a stream. `pos` is the compare-and-set of every commit; `high_water` the highest number consumed in `epoch`.
CREATE TABLE streams (
    id          INTEGER PRIMARY KEY,
    endpoint    TEXT NOT NULL,
    device      TEXT NOT NULL,
    pos         INTEGER NOT NULL,
    epoch       INTEGER NOT NULL,
    high_water  INTEGER,
    mode        INTEGER NOT NULL,             -- 0 open, 1 numbered by the device, 2 by the server
    generation  INTEGER NOT NULL DEFAULT 0,
    fence       INTEGER NOT NULL DEFAULT 0,
    last_ts     INTEGER,
    last_seen   INTEGER NOT NULL,
    samples     INTEGER NOT NULL DEFAULT 0,
    created     INTEGER NOT NULL,
    UNIQUE (endpoint, device)
) STRICT;

-- The rows of a stream's log that are no readings: version switches, resets, epoch starts.
CREATE TABLE stream_log (
    stream_id  INTEGER NOT NULL REFERENCES streams (id),
    pos        INTEGER NOT NULL,
    kind       INTEGER NOT NULL,              -- 1 switch, 2 reset, 3 epoch
    epoch      INTEGER NOT NULL,
    version_id INTEGER REFERENCES versions (id),
    arm        TEXT,
    propensity REAL,
    warm_from  INTEGER,
    reason     TEXT NOT NULL,
    at         INTEGER NOT NULL,
    PRIMARY KEY (stream_id, pos)
) STRICT, WITHOUT ROWID;

-- Model state behind position `pos`. Folding the log after `pos` gives every later state, bit for bit.
CREATE TABLE snapshots (
    stream_id    INTEGER NOT NULL REFERENCES streams (id),
    pos          INTEGER NOT NULL,
    version_id   INTEGER NOT NULL REFERENCES versions (id),
    layout       TEXT NOT NULL,
    numerics_rev INTEGER NOT NULL,
    last_ts      INTEGER,
    state        BLOB NOT NULL,
    PRIMARY KEY (stream_id, pos)
) STRICT, WITHOUT ROWID;

-- The readings that a stream was calibrated on, kept beyond retention so that a new version can learn from the same.
CREATE TABLE calibrations (
    stream_id INTEGER NOT NULL REFERENCES streams (id),
    pos       INTEGER NOT NULL,
    ts        INTEGER NOT NULL,
    "values"  BLOB NOT NULL,
    PRIMARY KEY (stream_id, pos)
) STRICT, WITHOUT ROWID;

-- Skipped ranges that may still come late, both ends inclusive.
CREATE TABLE gaps (
    stream_id INTEGER NOT NULL REFERENCES streams (id),
    epoch     INTEGER NOT NULL,
    from_seq  INTEGER NOT NULL,
    to_seq    INTEGER NOT NULL,
    PRIMARY KEY (stream_id, epoch, from_seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE samples (
    id           INTEGER PRIMARY KEY,         -- given by the writer in commit order
    stream_id    INTEGER NOT NULL REFERENCES streams (id),
    pos          INTEGER NOT NULL,
    epoch        INTEGER NOT NULL,
    seq          INTEGER NOT NULL,
    ts           INTEGER NOT NULL,
    received_at  INTEGER NOT NULL,
    "values"     BLOB NOT NULL,
    output       BLOB NOT NULL,
    version_id   INTEGER NOT NULL REFERENCES versions (id),
    arm          TEXT,
    latency_us   INTEGER NOT NULL,
    flags        INTEGER NOT NULL,
    numerics_rev INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX samples_by_number ON samples (stream_id, epoch, seq);
-- Ends in the row id: one stream's samples in commit order.
CREATE INDEX samples_by_stream ON samples (stream_id);

CREATE TABLE shadow_predictions (
    sample_id  INTEGER NOT NULL,
    version_id INTEGER NOT NULL REFERENCES versions (id),
    output     BLOB NOT NULL,
    latency_us INTEGER NOT NULL,
    PRIMARY KEY (sample_id, version_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE feedback (
    id        INTEGER PRIMARY KEY,
    stream_id INTEGER NOT NULL REFERENCES streams (id),
    epoch     INTEGER NOT NULL,
    seq       INTEGER NOT NULL,
    label     TEXT,
    number    REAL,
    at        INTEGER NOT NULL
) STRICT;
CREATE INDEX feedback_by_number ON feedback (stream_id, epoch, seq);

-- Readings that will never be taken. `consumed` tells that the refusal used up the number.
CREATE TABLE refusals (
    id        INTEGER PRIMARY KEY,
    stream_id INTEGER NOT NULL REFERENCES streams (id),
    pos       INTEGER NOT NULL,
    epoch     INTEGER NOT NULL,
    seq       INTEGER,
    code      TEXT NOT NULL,
    message   TEXT NOT NULL,
    consumed  INTEGER NOT NULL,
    at        INTEGER NOT NULL
) STRICT;
CREATE INDEX refusals_by_number ON refusals (stream_id, epoch, seq);
