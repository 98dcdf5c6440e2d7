-- The ledger in one SQLite file. Rules are Python (ledger.py); here are the shapes and the invariants SQL can hold.
-- Checks are spelled with OR: SQLite builds a table for IN (...) on every row, which doubled the time of an insert.

-- One row per user: what a vend touches. `lots` is a JSON array of
-- [entry number, grant id, remaining, category, priority, expires at], in burn-down order.
CREATE TABLE wallets (
  user_id        TEXT    NOT NULL PRIMARY KEY,
  available      INTEGER NOT NULL CHECK (available BETWEEN 0 AND 9007199254740991),
  held           INTEGER NOT NULL CHECK (held BETWEEN 0 AND 9007199254740991),
  debt           INTEGER NOT NULL CHECK (debt >= 0),
  entries        INTEGER NOT NULL CHECK (entries > 0),
  last_entry_id  TEXT    NOT NULL,
  next_expiry_at INTEGER,
  updated_at     INTEGER NOT NULL,
  lots           TEXT    NOT NULL,
  CHECK (debt = 0 OR available = 0)
) STRICT, WITHOUT ROWID;

CREATE INDEX wallets_due ON wallets (next_expiry_at) WHERE next_expiry_at IS NOT NULL;

-- The journal: only ever added to. Ids are in time order, so rows land at the end; a wallet's history is walked
-- from its last entry back through `previous_id`.
CREATE TABLE entries (
  id              TEXT    NOT NULL PRIMARY KEY,
  user_id         TEXT    NOT NULL,
  number          INTEGER NOT NULL CHECK (number > 0),
  previous_id     TEXT    CHECK ((previous_id IS NULL) = (number = 1)),
  at              INTEGER NOT NULL,
  kind            TEXT    NOT NULL CHECK (kind = 'vend' OR kind = 'hold' OR kind = 'capture' OR kind = 'return'
                  OR kind = 'grant' OR kind = 'refund' OR kind = 'expire' OR kind = 'adjust' OR kind = 'repay'),
  amount          INTEGER NOT NULL CHECK (amount > 0),
  debit           TEXT    NOT NULL,
  credit          TEXT    NOT NULL CHECK (credit <> debit),
  available_after INTEGER NOT NULL CHECK (available_after >= 0),
  held_after      INTEGER NOT NULL CHECK (held_after >= 0),
  ticket_id       TEXT,
  grant_id        TEXT,
  reference       TEXT,
  reason          TEXT,
  actor           TEXT
) STRICT, WITHOUT ROWID;

CREATE TRIGGER entries_are_never_changed BEFORE UPDATE ON entries
BEGIN SELECT RAISE(ABORT, 'an entry is never changed'); END;

CREATE TRIGGER entries_are_never_deleted BEFORE DELETE ON entries
BEGIN SELECT RAISE(ABORT, 'an entry is never deleted'); END;

-- `taken` has the shape of wallets.lots: which lots paid. `due_at` is set while credits are held.
CREATE TABLE tickets (
  id             TEXT    NOT NULL PRIMARY KEY,
  user_id        TEXT    NOT NULL,
  action         TEXT    NOT NULL,
  audience       TEXT    NOT NULL,
  cost           INTEGER NOT NULL CHECK (cost > 0),
  settle         TEXT    NOT NULL CHECK (settle = 'vend' OR settle = 'redeem' OR settle = 'report'),
  report_seconds INTEGER NOT NULL,
  issued_at      INTEGER NOT NULL,
  expires_at     INTEGER NOT NULL,
  state          TEXT    NOT NULL CHECK (state = 'captured' OR state = 'issued' OR state = 'redeemed'
                 OR state = 'voided' OR state = 'expired'),
  redeemed_at    INTEGER,
  captured       INTEGER NOT NULL CHECK (captured >= 0),
  returned       INTEGER NOT NULL CHECK (returned >= 0),
  due_at         INTEGER CHECK ((due_at IS NOT NULL) = (state = 'issued' OR state = 'redeemed')),
  taken          TEXT    NOT NULL,
  CHECK (captured + returned = CASE WHEN due_at IS NULL THEN cost ELSE 0 END)
) STRICT, WITHOUT ROWID;

CREATE INDEX tickets_due ON tickets (due_at) WHERE due_at IS NOT NULL;

-- Keys used once: hashes in random order, so the table is kept lean and apart.
CREATE TABLE claims (
  key         BLOB    NOT NULL PRIMARY KEY,
  user_id     TEXT    NOT NULL,
  fingerprint BLOB    NOT NULL,
  at          INTEGER NOT NULL,
  outcome     TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE api_keys (
  id          TEXT    NOT NULL PRIMARY KEY,
  role        TEXT    NOT NULL CHECK (role IN ('mint', 'service', 'operator')),
  name        TEXT    NOT NULL,
  secret_hash BLOB    NOT NULL UNIQUE,
  created_at  INTEGER NOT NULL,
  revoked_at  INTEGER
) STRICT, WITHOUT ROWID;

-- What the readiness probe writes, to know that the file can be written.
CREATE TABLE probe (
  id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
  at INTEGER NOT NULL
) STRICT;
