-- Payments. Money is in minor units. What is told of a payment more than once, in any order, is one row here.

-- A wallet may stand for itself before its first entry (money too little for a pack), and says in `standing`, if there
-- is anything to say, why it is frozen and what money is left over: [[reason, …], [[currency, minor units], …]].
CREATE TABLE wallets_2 (
  user_id        TEXT    NOT NULL PRIMARY KEY,
  available      INTEGER NOT NULL CHECK (available BETWEEN 0 AND 9007199254740991),
  held           INTEGER NOT NULL CHECK (held BETWEEN 0 AND 9007199254740991),
  debt           INTEGER NOT NULL CHECK (debt >= 0),
  entries        INTEGER NOT NULL CHECK (entries >= 0),
  last_entry_id  TEXT    CHECK ((last_entry_id IS NULL) = (entries = 0)),
  next_expiry_at INTEGER,
  updated_at     INTEGER NOT NULL,
  lots           TEXT    NOT NULL,
  standing       TEXT,
  CHECK (debt = 0 OR available = 0)
) STRICT, WITHOUT ROWID;

INSERT INTO wallets_2 SELECT *, NULL FROM wallets ORDER BY user_id;
DROP TABLE wallets;
ALTER TABLE wallets_2 RENAME TO wallets;

CREATE INDEX wallets_due ON wallets (next_expiry_at) WHERE next_expiry_at IS NOT NULL;

-- Two more kinds of entries. SQLite cannot change a check, so the journal is written anew, once.
CREATE TABLE entries_2 (
  id              TEXT    NOT NULL PRIMARY KEY,
  user_id         TEXT    NOT NULL,
  number          INTEGER NOT NULL CHECK (number > 0),
  previous_id     TEXT    CHECK ((previous_id IS NULL) = (number = 1)),
  at              INTEGER NOT NULL,
  kind            TEXT    NOT NULL CHECK (kind = 'vend' OR kind = 'hold' OR kind = 'capture' OR kind = 'return'
                  OR kind = 'grant' OR kind = 'refund' OR kind = 'expire' OR kind = 'adjust' OR kind = 'repay'
                  OR kind = 'clawback' OR kind = 'restore'),
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

INSERT INTO entries_2 SELECT * FROM entries ORDER BY id;
DROP TABLE entries;
ALTER TABLE entries_2 RENAME TO entries;

CREATE TRIGGER entries_are_never_changed BEFORE UPDATE ON entries
BEGIN SELECT RAISE(ABORT, 'an entry is never changed'); END;

CREATE TRIGGER entries_are_never_deleted BEFORE DELETE ON entries
BEGIN SELECT RAISE(ABORT, 'an entry is never deleted'); END;

CREATE TABLE checkouts (
  id                TEXT    NOT NULL PRIMARY KEY,
  user_id           TEXT    NOT NULL,
  gateway           TEXT    NOT NULL,
  pack_id           TEXT    NOT NULL,
  currency          TEXT    NOT NULL,
  price             INTEGER NOT NULL CHECK (price > 0),
  credits           INTEGER NOT NULL CHECK (credits > 0),
  payment_code      TEXT    NOT NULL UNIQUE,
  token_hash        BLOB    NOT NULL UNIQUE,
  state             TEXT    NOT NULL CHECK (state IN ('created', 'pending', 'paid', 'failed', 'expired', 'review')),
  created_at        INTEGER NOT NULL,
  updated_at        INTEGER NOT NULL,
  message           TEXT    NOT NULL,
  gateway_reference TEXT,
  redirect_url      TEXT,
  phone_hash        BLOB,
  phone_mask        TEXT,
  due_at            INTEGER CHECK (due_at IS NULL OR (state <> 'paid' AND state <> 'review')),
  asked             INTEGER NOT NULL CHECK (asked >= 0)
) STRICT, WITHOUT ROWID;

CREATE INDEX checkouts_due ON checkouts (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX checkouts_of_phone ON checkouts (phone_hash, id) WHERE phone_hash IS NOT NULL;
CREATE INDEX checkouts_by_reference ON checkouts (gateway, gateway_reference) WHERE gateway_reference IS NOT NULL;

-- `disputes` is a JSON array of [id, stage, funds, amount, credits lost], `priced` one of
-- [pack id, price, credits, count]. `amount` is 0 until the money itself is heard of.
CREATE TABLE payments (
  id               TEXT    NOT NULL PRIMARY KEY,
  gateway          TEXT    NOT NULL,
  namespace        TEXT    NOT NULL,
  currency         TEXT    NOT NULL,
  at               INTEGER NOT NULL,
  updated_at       INTEGER NOT NULL,
  state            TEXT    NOT NULL CHECK (state IN ('unmatched', 'review', 'paid', 'failed', 'part_refunded',
                   'refunded', 'disputed', 'written_off')),
  reference        TEXT,
  link             TEXT,
  user_id          TEXT,
  checkout_id      TEXT,
  amount           INTEGER NOT NULL CHECK (amount >= 0),
  confirmed        INTEGER NOT NULL CHECK (confirmed IN (0, 1)),
  minted           INTEGER NOT NULL CHECK (minted BETWEEN 0 AND 9007199254740991),
  grant_id         TEXT    CHECK ((grant_id IS NOT NULL) = (minted > 0)),
  refunded         INTEGER NOT NULL CHECK (refunded >= 0),
  clawed           INTEGER NOT NULL CHECK (clawed BETWEEN 0 AND minted),
  lost             INTEGER NOT NULL CHECK (lost BETWEEN 0 AND clawed),
  disputes         TEXT    NOT NULL,
  code             TEXT,
  phone_hash       BLOB,
  phone_mask       TEXT,
  note             TEXT    NOT NULL,
  priced           TEXT    NOT NULL,
  remainder_before INTEGER NOT NULL CHECK (remainder_before >= 0),
  remainder_after  INTEGER NOT NULL CHECK (remainder_after >= 0),
  CHECK (CASE WHEN state IN ('unmatched', 'review', 'written_off') THEN minted = 0
         WHEN state = 'failed' THEN clawed = minted ELSE user_id IS NOT NULL AND amount > 0 END)
) STRICT, WITHOUT ROWID;

-- A reference mints once; a checkout is paid without a receipt once.
CREATE UNIQUE INDEX payments_by_reference ON payments (namespace, reference) WHERE reference IS NOT NULL;
CREATE UNIQUE INDEX payments_by_link ON payments (namespace, link) WHERE link IS NOT NULL;
CREATE UNIQUE INDEX payments_without_receipt ON payments (checkout_id, namespace)
  WHERE reference IS NULL AND checkout_id IS NOT NULL;
CREATE INDEX payments_of_checkout ON payments (checkout_id) WHERE checkout_id IS NOT NULL;
CREATE INDEX payments_by_state ON payments (state, id, gateway);
CREATE INDEX payments_by_gateway ON payments (gateway, id);

-- What gateways and operators said, redacted, written with what came of it. Once each: their keys are claimed.
CREATE TABLE payment_events (
  id          TEXT    NOT NULL PRIMARY KEY,
  gateway     TEXT    NOT NULL,
  key         TEXT    NOT NULL,
  kind        TEXT    NOT NULL,
  at          INTEGER NOT NULL,
  raw         BLOB    NOT NULL,
  note        TEXT    NOT NULL,
  payment_id  TEXT,
  checkout_id TEXT
) STRICT, WITHOUT ROWID;

CREATE INDEX events_of_payment ON payment_events (payment_id, id) WHERE payment_id IS NOT NULL;
CREATE INDEX events_of_checkout ON payment_events (checkout_id, id) WHERE checkout_id IS NOT NULL;
