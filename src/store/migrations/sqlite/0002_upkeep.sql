-- Imports beside the live streams, roll-ups that outlive the raw rows, and the marks of retention.

-- An import is a stream of its own beside the device's live one: own log, own state, own epoch. `import` is that epoch, 0 for the live stream.
-- SQLite cannot change a UNIQUE in place: the table is made anew. Nobody enforces foreign keys on this connection, so rows that point here stay.
CREATE TABLE streams_with_imports (
    id          INTEGER PRIMARY KEY,
    endpoint    TEXT NOT NULL,
    device      TEXT NOT NULL,
    import      INTEGER NOT NULL DEFAULT 0,
    pos         INTEGER NOT NULL,
    epoch       INTEGER NOT NULL,
    high_water  INTEGER,
    mode        INTEGER NOT NULL,             -- 0 open, 1 numbered by the device, 2 by the server
    generation  INTEGER NOT NULL DEFAULT 0,
    fence       INTEGER NOT NULL DEFAULT 0,
    last_ts     INTEGER,
    last_seen   INTEGER NOT NULL,
    samples     INTEGER NOT NULL DEFAULT 0,   -- ever taken, retired ones included
    created     INTEGER NOT NULL,
    UNIQUE (endpoint, device, import)
) STRICT;
INSERT INTO streams_with_imports
    (id, endpoint, device, pos, epoch, high_water, mode, generation, fence, last_ts, last_seen, samples, created)
    SELECT id, endpoint, device, pos, epoch, high_water, mode, generation, fence, last_ts, last_seen, samples, created FROM streams;
DROP TABLE streams;
ALTER TABLE streams_with_imports RENAME TO streams;

-- Every sample from this id on is kept. Below it retention has been: what a fold needs is still there, the rest is gone.
ALTER TABLE log ADD COLUMN first_kept INTEGER NOT NULL DEFAULT 1;

-- What a consumer of the committed log has taken in; moved in the transaction that stores what it made of it.
CREATE TABLE consumers (
    name      TEXT PRIMARY KEY,
    sample_id INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- A stream's readings over a minute or an hour of measured time. Sums, so that two rows of one bucket add up.
CREATE TABLE rollups (
    stream_id INTEGER NOT NULL REFERENCES streams (id),
    span_s    INTEGER NOT NULL,               -- 60 or 3600
    start     INTEGER NOT NULL,               -- Unix ms, a multiple of the span
    count     INTEGER NOT NULL,               -- readings taken
    scored    INTEGER NOT NULL,               -- of them with a score, or a first value of a regression or forecast
    anomalies INTEGER NOT NULL,               -- of them called an anomaly
    failed    INTEGER NOT NULL,               -- of them whose step failed
    score     BLOB NOT NULL,                  -- count u64, sum f64, min f32, max f32, little-endian
    features  BLOB NOT NULL,                  -- the same for each feature, in order; missing values are not counted
    at        INTEGER NOT NULL,               -- when it was last added to, Unix ms: its age, for a back-fill is not old
    PRIMARY KEY (stream_id, span_s, start)
) STRICT, WITHOUT ROWID;
CREATE INDEX rollups_by_age ON rollups (span_s, at);

-- The newest sample id when the row was committed: a stream's samples behind the row have higher ids, which is how its place is
-- found without walking the stream from its beginning. 0: not known (older rows), look from the start.
ALTER TABLE snapshots ADD COLUMN sample_id INTEGER NOT NULL DEFAULT 0;
ALTER TABLE stream_log ADD COLUMN sample_id INTEGER NOT NULL DEFAULT 0;
