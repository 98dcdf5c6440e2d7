-- Payments. Money is in minor units. What is told of a payment more than once, in any order, is one row here.
-- Servers of the version before may go on afterwards: they see nothing of what is new.

-- A wallet may stand for itself before its first entry (money too little for a pack), and says in `standing`, if there
-- is anything to say, why it is frozen and what money is left over: [[reason, …], [[currency, minor units], …]].
ALTER TABLE wallets
  ADD COLUMN standing text COLLATE "C",
  ALTER COLUMN last_entry_id DROP NOT NULL,
  DROP CONSTRAINT wallets_entries_check,
  ADD CONSTRAINT wallets_entries_check CHECK (entries >= 0 AND (last_entry_id IS NULL) = (entries = 0));

-- Two more kinds of entries. The journal is read through once for that. If it was cut into months, each has the rule.
DO $$ DECLARE month regclass; BEGIN
  ALTER TABLE entries DROP CONSTRAINT entries_kind_check;
  FOR month IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'entries'::regclass LOOP
    EXECUTE format('ALTER TABLE %s DROP CONSTRAINT IF EXISTS entries_kind_check', month);
  END LOOP;
END $$;

ALTER TABLE entries ADD CONSTRAINT entries_kind_check CHECK (kind IN (
  'grant', 'vend', 'hold', 'capture', 'return', 'refund', 'expire', 'adjust', 'repay', 'clawback', 'restore'));

CREATE TABLE checkouts (
  id                text COLLATE "C" PRIMARY KEY,
  user_id           text COLLATE "C" NOT NULL,
  gateway           text COLLATE "C" NOT NULL,
  pack_id           text COLLATE "C" NOT NULL,
  currency          text COLLATE "C" NOT NULL,
  price             bigint NOT NULL CHECK (price > 0),
  credits           bigint NOT NULL CHECK (credits > 0),
  payment_code      text COLLATE "C" NOT NULL UNIQUE,
  token_hash        bytea NOT NULL UNIQUE,
  state             text COLLATE "C" NOT NULL
                    CHECK (state IN ('created', 'pending', 'paid', 'failed', 'expired', 'review')),
  created_at        bigint NOT NULL,
  updated_at        bigint NOT NULL,
  message           text NOT NULL,
  gateway_reference text COLLATE "C",
  redirect_url      text,
  phone_hash        bytea,
  phone_mask        text,
  due_at            bigint CHECK (due_at IS NULL OR state NOT IN ('paid', 'review')),
  asked             bigint NOT NULL CHECK (asked >= 0)
);

CREATE INDEX checkouts_due ON checkouts (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX checkouts_of_phone ON checkouts (phone_hash, id) WHERE phone_hash IS NOT NULL;
CREATE INDEX checkouts_by_reference ON checkouts (gateway, gateway_reference) WHERE gateway_reference IS NOT NULL;

-- `disputes` is a JSON array of [id, stage, funds, amount, credits lost], `priced` one of
-- [pack id, price, credits, count]. `amount` is 0 until the money itself is heard of.
CREATE TABLE payments (
  id               text COLLATE "C" PRIMARY KEY,
  gateway          text COLLATE "C" NOT NULL,
  namespace        text COLLATE "C" NOT NULL,
  currency         text COLLATE "C" NOT NULL,
  at               bigint NOT NULL,
  updated_at       bigint NOT NULL,
  state            text COLLATE "C" NOT NULL CHECK (state IN (
                   'unmatched', 'review', 'paid', 'failed', 'part_refunded', 'refunded', 'disputed', 'written_off')),
  reference        text COLLATE "C",
  link             text COLLATE "C",
  user_id          text COLLATE "C",
  checkout_id      text COLLATE "C",
  amount           bigint NOT NULL CHECK (amount >= 0),
  confirmed        smallint NOT NULL CHECK (confirmed IN (0, 1)),
  minted           bigint NOT NULL CHECK (minted BETWEEN 0 AND 9007199254740991),
  grant_id         text COLLATE "C" CHECK ((grant_id IS NOT NULL) = (minted > 0)),
  refunded         bigint NOT NULL CHECK (refunded >= 0),
  clawed           bigint NOT NULL CHECK (clawed BETWEEN 0 AND minted),
  lost             bigint NOT NULL CHECK (lost BETWEEN 0 AND clawed),
  disputes         text COLLATE "C" NOT NULL,
  code             text COLLATE "C",
  phone_hash       bytea,
  phone_mask       text,
  note             text NOT NULL,
  priced           text COLLATE "C" NOT NULL,
  remainder_before bigint NOT NULL CHECK (remainder_before >= 0),
  remainder_after  bigint NOT NULL CHECK (remainder_after >= 0),
  CHECK (CASE WHEN state IN ('unmatched', 'review', 'written_off') THEN minted = 0
         WHEN state = 'failed' THEN clawed = minted ELSE user_id IS NOT NULL AND amount > 0 END),
  -- A reference mints once. At the end of a statement: one payment may take over another's names.
  CONSTRAINT payments_by_reference UNIQUE (namespace, reference) DEFERRABLE INITIALLY IMMEDIATE,
  CONSTRAINT payments_by_link UNIQUE (namespace, link) DEFERRABLE INITIALLY IMMEDIATE
);

-- A checkout is paid without a receipt once.
CREATE UNIQUE INDEX payments_without_receipt ON payments (checkout_id, namespace)
  WHERE reference IS NULL AND checkout_id IS NOT NULL;
CREATE INDEX payments_of_checkout ON payments (checkout_id) WHERE checkout_id IS NOT NULL;
CREATE INDEX payments_by_state ON payments (state, id, gateway);
CREATE INDEX payments_by_gateway ON payments (gateway, id);

-- What gateways and operators said, redacted, written with what came of it. Once each: their keys are claimed.
CREATE TABLE payment_events (
  id          text COLLATE "C" PRIMARY KEY,
  gateway     text COLLATE "C" NOT NULL,
  key         text COLLATE "C" NOT NULL,
  kind        text NOT NULL,
  at          bigint NOT NULL,
  raw         bytea NOT NULL,
  note        text NOT NULL,
  payment_id  text COLLATE "C",
  checkout_id text COLLATE "C"
);

CREATE INDEX events_of_payment ON payment_events (payment_id, id) WHERE payment_id IS NOT NULL;
CREATE INDEX events_of_checkout ON payment_events (checkout_id, id) WHERE checkout_id IS NOT NULL;

-- The types in which a batch arrives. The one of wallets before stays for servers of the version before.
CREATE TYPE wallet_row_2 AS (
  user_id text, available bigint, held bigint, debt bigint, entries bigint, last_entry_id text, next_expiry_at bigint,
  updated_at bigint, lots text, standing text
);
CREATE TYPE checkout_row AS (
  id text, user_id text, gateway text, pack_id text, currency text, price bigint, credits bigint, payment_code text,
  token_hash bytea, state text, created_at bigint, updated_at bigint, message text, gateway_reference text,
  redirect_url text, phone_hash bytea, phone_mask text, due_at bigint, asked bigint
);
CREATE TYPE payment_row AS (
  id text, gateway text, namespace text, currency text, at bigint, updated_at bigint, state text, reference text,
  link text, user_id text, checkout_id text, amount bigint, confirmed smallint, minted bigint, grant_id text,
  refunded bigint, clawed bigint, lost bigint, disputes text, code text, phone_hash bytea, phone_mask text, note text,
  priced text, remainder_before bigint, remainder_after bigint
);
CREATE TYPE event_row AS (
  id text, gateway text, key text, kind text, at bigint, raw bytea, note text, payment_id text, checkout_id text
);
