-- MQTT publishes that were taken, for as long as the broker may deliver them again. Only those whose readings carry no number of their own.

-- The broker's session of each client (`NODE-in@host:port`), counted. A broker that lost it begins another one, in which the same packet
-- ids name other publishes.
CREATE TABLE mqtt_sessions (
    client  TEXT PRIMARY KEY,
    session INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Written in the commit that holds the rows of the publish, and cut there to the publishes that may be unacknowledged at once.
CREATE TABLE mqtt_receipts (
    client  TEXT NOT NULL,
    place   INTEGER NOT NULL,                 -- counts the client's publishes here, over sessions and restarts
    session INTEGER NOT NULL,
    packet  INTEGER NOT NULL,                 -- packet id
    hash    BLOB NOT NULL,                    -- SHA-256 of topic, properties and payload
    taken   INTEGER NOT NULL,                 -- messages of the publish that are stored; a batch may be stored in parts
    PRIMARY KEY (client, place)
) STRICT, WITHOUT ROWID;
