-- The ledger in PostgreSQL: the same shapes as in SQLite. Rules are Python (ledger.py); here is what SQL can hold.
-- Ids and names compare by bytes (COLLATE "C"): that is fast, and the order of locks is the same everywhere.

-- Which of these files have been applied.
CREATE TABLE pluct_schema (
  version    integer PRIMARY KEY,
  applied_at timestamptz NOT NULL
);

-- One row per user: what a vend touches. `lots` is a JSON array of
-- [entry number, grant id, remaining, category, priority, expires at], in burn-down order.
-- Nothing but user_id is indexed for most wallets, and pages keep room: an update stays on its page (HOT).
CREATE TABLE wallets (
  user_id        text COLLATE "C" PRIMARY KEY,
  available      bigint NOT NULL CHECK (available BETWEEN 0 AND 9007199254740991),
  held           bigint NOT NULL CHECK (held BETWEEN 0 AND 9007199254740991),
  debt           bigint NOT NULL CHECK (debt >= 0),
  entries        bigint NOT NULL CHECK (entries > 0),
  last_entry_id  text COLLATE "C" NOT NULL,
  next_expiry_at bigint,
  updated_at     bigint NOT NULL,
  lots           text COLLATE "C" NOT NULL,
  CHECK (debt = 0 OR available = 0)
) WITH (fillfactor = 50);

CREATE INDEX wallets_due ON wallets (next_expiry_at) WHERE next_expiry_at IS NOT NULL;

-- The journal: only ever added to. Ids are in time order, so rows land at the end; a wallet's history is walked
-- from its last entry back through `previous_id`.
CREATE TABLE entries (
  id              text COLLATE "C" PRIMARY KEY,
  user_id         text COLLATE "C" NOT NULL,
  number          bigint NOT NULL CHECK (number > 0),
  previous_id     text COLLATE "C" CHECK ((previous_id IS NULL) = (number = 1)),
  at              bigint NOT NULL,
  kind            text COLLATE "C" NOT NULL CHECK (kind IN (
                  'grant', 'vend', 'hold', 'capture', 'return', 'refund', 'expire', 'adjust', 'repay')),
  amount          bigint NOT NULL CHECK (amount > 0),
  debit           text COLLATE "C" NOT NULL,
  credit          text COLLATE "C" NOT NULL CHECK (credit <> debit),
  available_after bigint NOT NULL CHECK (available_after >= 0),
  held_after      bigint NOT NULL CHECK (held_after >= 0),
  ticket_id       text COLLATE "C",
  grant_id        text COLLATE "C",
  reference       text COLLATE "C",
  reason          text COLLATE "C",
  actor           text COLLATE "C"
);

CREATE FUNCTION entries_are_for_ever() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'an entry is never changed or deleted'; END $$;

CREATE TRIGGER entries_are_for_ever BEFORE UPDATE OR DELETE OR TRUNCATE ON entries
FOR EACH STATEMENT EXECUTE FUNCTION entries_are_for_ever();

-- `taken` has the shape of wallets.lots: which lots paid. `due_at` is set while credits are held.
CREATE TABLE tickets (
  id             text COLLATE "C" PRIMARY KEY,
  user_id        text COLLATE "C" NOT NULL,
  action         text COLLATE "C" NOT NULL,
  audience       text COLLATE "C" NOT NULL,
  cost           bigint NOT NULL CHECK (cost > 0),
  settle         text COLLATE "C" NOT NULL CHECK (settle IN ('vend', 'redeem', 'report')),
  report_seconds bigint NOT NULL,
  issued_at      bigint NOT NULL,
  expires_at     bigint NOT NULL,
  state          text COLLATE "C" NOT NULL CHECK (state IN ('captured', 'issued', 'redeemed', 'voided', 'expired')),
  redeemed_at    bigint,
  captured       bigint NOT NULL CHECK (captured >= 0),
  returned       bigint NOT NULL CHECK (returned >= 0),
  due_at         bigint CHECK ((due_at IS NOT NULL) = (state IN ('issued', 'redeemed'))),
  taken          text COLLATE "C" NOT NULL,
  CHECK (captured + returned = CASE WHEN due_at IS NULL THEN cost ELSE 0 END)
);

CREATE INDEX tickets_due ON tickets (due_at) WHERE due_at IS NOT NULL;

-- Keys used once: hashes in random order, so the table is kept lean and apart.
CREATE TABLE claims (
  key         bytea PRIMARY KEY,
  user_id     text COLLATE "C" NOT NULL,
  fingerprint bytea NOT NULL,
  at          bigint NOT NULL,
  outcome     text COLLATE "C" NOT NULL
);

CREATE TABLE api_keys (
  id          text COLLATE "C" PRIMARY KEY,
  role        text COLLATE "C" NOT NULL CHECK (role IN ('mint', 'service', 'operator')),
  name        text NOT NULL,
  secret_hash bytea NOT NULL UNIQUE,
  created_at  bigint NOT NULL,
  revoked_at  bigint
);

-- What the readiness probe writes, to know that the database can be written.
CREATE TABLE probe (
  id smallint PRIMARY KEY CHECK (id = 1),
  at bigint NOT NULL
);

-- A batch arrives as arrays of these, one for each table. They are types of their own so that a table may get another
-- column while servers of the version before are still running.
CREATE TYPE wallet_row AS (
  user_id text, available bigint, held bigint, debt bigint, entries bigint, last_entry_id text, next_expiry_at bigint,
  updated_at bigint, lots text
);
CREATE TYPE entry_row AS (
  id text, user_id text, number bigint, previous_id text, at bigint, kind text, amount bigint, debit text, credit text,
  available_after bigint, held_after bigint, ticket_id text, grant_id text, reference text, reason text, actor text
);
CREATE TYPE ticket_row AS (
  id text, user_id text, action text, audience text, cost bigint, settle text, report_seconds bigint, issued_at bigint,
  expires_at bigint, state text, redeemed_at bigint, captured bigint, returned bigint, due_at bigint, taken text
);
CREATE TYPE claim_row AS (key bytea, user_id text, fingerprint bytea, at bigint, outcome text);
