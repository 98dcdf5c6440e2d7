-- Who is signed in to the console: the hash of a cookie, and the key that was shown. Never copied with a ledger.
CREATE TABLE sessions (
  hash       bytea   NOT NULL PRIMARY KEY,
  key_id     text    NOT NULL,
  created_at bigint NOT NULL,
  seen_at    bigint NOT NULL
);
