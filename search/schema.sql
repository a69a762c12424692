-- One search. `event` is the sequence that resuming replays; `candidate` and `evaluation` hold what it refers to.
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE genome (digest TEXT PRIMARY KEY, json TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE candidate (
  number INTEGER PRIMARY KEY,
  genome TEXT NOT NULL REFERENCES genome,
  edits TEXT NOT NULL,
  fidelity TEXT NOT NULL,
  twin_key TEXT NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE parent (
  child INTEGER NOT NULL REFERENCES candidate,
  rank INTEGER NOT NULL,
  parent INTEGER NOT NULL REFERENCES candidate CHECK (parent < child),
  PRIMARY KEY (child, rank)
) WITHOUT ROWID;

CREATE TABLE evaluation (
  number INTEGER PRIMARY KEY REFERENCES candidate,
  status TEXT NOT NULL,
  weights TEXT,
  twin INTEGER REFERENCES candidate,
  record TEXT NOT NULL
);
CREATE TABLE objective (
  number INTEGER NOT NULL REFERENCES evaluation,
  name TEXT NOT NULL,
  value REAL NOT NULL CHECK (abs(value) < 1e300),
  PRIMARY KEY (number, name)
) WITHOUT ROWID;

CREATE TABLE event (
  seq INTEGER PRIMARY KEY,
  kind TEXT NOT NULL CHECK (kind IN ('ask', 'tell')),
  number INTEGER NOT NULL REFERENCES candidate,
  elapsed REAL NOT NULL,
  UNIQUE (kind, number)
);
-- What MLflow has not been told yet has no external_id; filled by the tracking thread.
CREATE TABLE outbox (number INTEGER PRIMARY KEY REFERENCES evaluation, external_id TEXT);

CREATE INDEX candidate_by_twin ON candidate (twin_key);
CREATE INDEX parent_by_parent ON parent (parent);
