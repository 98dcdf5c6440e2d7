-- What users ask for (`POST /v1/credits/request`), newest first.
CREATE INDEX payment_events_by_claim ON payment_events (id) WHERE gateway = 'claim';

-- Keys that sign tickets, their private halves encrypted. Each signs what is issued from its `signs_from` until that of
-- the next; from `retired_at` on a key is not believed any more.
CREATE TABLE signing_keys (
  kid            TEXT    NOT NULL PRIMARY KEY,
  public         BLOB    NOT NULL CHECK (length(public) = 32),
  sealed         BLOB    NOT NULL,
  created_at     INTEGER NOT NULL,
  signs_from     INTEGER NOT NULL CHECK (signs_from >= created_at),
  ticket_seconds INTEGER NOT NULL CHECK (ticket_seconds > 0),
  retired_at     INTEGER CHECK (retired_at >= created_at)
) STRICT, WITHOUT ROWID;
