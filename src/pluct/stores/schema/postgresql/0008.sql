-- What happened when: one row per process for each minute (two days) and each hour (two years).
CREATE TABLE sums (
  step    text NOT NULL,
  at      bigint NOT NULL,
  process text NOT NULL,
  tally   text NOT NULL,
  PRIMARY KEY (step, at, process)
);

-- The live log while somebody watches: lines of all processes, for a minute. Lost in a crash.
CREATE UNLOGGED TABLE log_lines (
  id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at      timestamptz NOT NULL DEFAULT clock_timestamp(),
  process text   NOT NULL,
  lines   text   NOT NULL,
  lost    bigint NOT NULL
);

-- As the owner of the tables: servers need no right to delete anything.
CREATE FUNCTION sweep_sums(minutes_before bigint, hours_before bigint) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
  DELETE FROM sums WHERE (step = 'minute' AND at < minutes_before) OR (step = 'hour' AND at < hours_before)
$$;
CREATE FUNCTION sweep_log_lines() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
  DELETE FROM log_lines WHERE at < clock_timestamp() - interval '60 s'
$$;
