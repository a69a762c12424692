-- One search. `event` is the sequence that resuming replays; `candidate` and `evaluation` hold what it refers to.
-- `schema`, `config` and `epoch` from the beginning; later `elapsed`, the age that was noted last between events, and `data`,
-- the SHA-256 of what the search trains on.
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE genome (digest TEXT PRIMARY KEY, json TEXT NOT NULL) WITHOUT ROWID;

-- `edits` name their genomes by digest; `identity` is a hash of all columns but `twin_key`, and of the parents. `twin_key`
-- begins with the genome's fingerprint, if it has one.
CREATE TABLE candidate (
  number INTEGER PRIMARY KEY,
  genome TEXT NOT NULL REFERENCES genome,
  edits TEXT NOT NULL,
  fidelity TEXT NOT NULL,
  promotes INTEGER REFERENCES candidate CHECK (promotes < number),
  identity TEXT NOT NULL,
  twin_key TEXT NOT NULL
);
CREATE TABLE parent (
  child INTEGER NOT NULL REFERENCES candidate,
  rank INTEGER NOT NULL,
  parent INTEGER NOT NULL REFERENCES candidate CHECK (parent < child),
  PRIMARY KEY (child, rank)
) WITHOUT ROWID;

-- Each start of an evaluation. `outcome` is null while it runs, then a status, or 'interrupted' if this program died.
-- `slot` is the name of where it ran, and `seconds` is the processor time that it took, known when it ends. Times are
-- seconds since 1970 by the system's clock, for people only.
CREATE TABLE attempt (
  seq INTEGER PRIMARY KEY,
  number INTEGER NOT NULL REFERENCES candidate,
  outcome TEXT,
  reason TEXT,
  slot TEXT,
  seconds REAL,
  started REAL NOT NULL,
  ended REAL
);

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
  value REAL NOT NULL CHECK (abs(value) <= 1.7976931348623157e308),
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
CREATE INDEX outbox_unsent ON outbox (number) WHERE external_id IS NULL;
CREATE INDEX attempt_by_number ON attempt (number);
