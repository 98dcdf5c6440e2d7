-- What users ask for (`POST /v1/credits/request`), newest first.
CREATE INDEX payment_events_by_claim ON payment_events (id) WHERE gateway = 'claim';

-- Keys that sign tickets, their private halves encrypted. Each signs what is issued from its `signs_from` until that of
-- the next; from `retired_at` on a key is not believed any more.
CREATE TABLE signing_keys (
  kid            text COLLATE "C" PRIMARY KEY,
  public         bytea NOT NULL CHECK (octet_length(public) = 32),
  sealed         bytea NOT NULL,
  created_at     bigint NOT NULL,
  signs_from     bigint NOT NULL CHECK (signs_from >= created_at),
  ticket_seconds bigint NOT NULL CHECK (ticket_seconds > 0),
  retired_at     bigint CHECK (retired_at >= created_at)
);
