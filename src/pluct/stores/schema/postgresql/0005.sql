-- Turns of rate limits, counted by all processes together. Not part of the ledger: never copied, and lost in a crash.
CREATE UNLOGGED TABLE turns (
  key   bytea  NOT NULL PRIMARY KEY,
  marks text   NOT NULL,
  until bigint NOT NULL
) WITH (fillfactor = 50);

CREATE INDEX turns_until ON turns (until);

-- As the owner of the table: servers need no right to delete anything.
CREATE FUNCTION sweep_turns(most integer) RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
  DELETE FROM turns WHERE key IN (
    SELECT key FROM turns WHERE until < extract(epoch FROM clock_timestamp()) * 1000
    ORDER BY until LIMIT most FOR UPDATE SKIP LOCKED)
$$;
