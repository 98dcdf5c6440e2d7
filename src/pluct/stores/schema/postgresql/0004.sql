-- Who is signed in to the console: the hash of the cookie, and the key that was shown. Not part of the ledger: never copied.
CREATE TABLE sessions (
  hash       bytea   NOT NULL PRIMARY KEY,
  key_id     text    NOT NULL,
  created_at bigint NOT NULL,
  seen_at    bigint NOT NULL
);
