-- Alerts that rules have raised, who looked after them, and what people have set by hand.

-- One row an alert; `body` is the whole of it as JSON, the other columns are what it is looked up by.
CREATE TABLE alerts (
    id          BIGINT PRIMARY KEY,
    rule        TEXT NOT NULL,
    endpoint    TEXT,                         -- NULL: about the server
    device      TEXT,                         -- NULL: about an endpoint or the server
    opened_at   BIGINT NOT NULL,             -- Unix ms
    resolved_at BIGINT,                      -- NULL: open
    body        TEXT NOT NULL
);
CREATE INDEX alerts_open ON alerts (id) WHERE resolved_at IS NULL;
CREATE INDEX alerts_by_end ON alerts (resolved_at) WHERE resolved_at IS NOT NULL;

-- What became of alerts, and what people changed. Only ever added to; `n` counts up.
CREATE TABLE alert_changes (
    n        BIGINT PRIMARY KEY,
    alert_id BIGINT,                         -- NULL: about a rule or a silence
    at       BIGINT NOT NULL,                -- Unix ms
    body     TEXT NOT NULL                    -- JSON
);
CREATE INDEX alert_changes_of ON alert_changes (alert_id, n);
CREATE INDEX alert_changes_by_age ON alert_changes (at);

-- Rules and silences that were set while the server ran: `rule/NAME`, `silence/ID`.
CREATE TABLE alert_settings (
    key  TEXT PRIMARY KEY,
    body TEXT NOT NULL                        -- JSON
);
