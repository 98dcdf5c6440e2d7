-- Turns of rate limits: one process serves a file, and counts them in its memory.
SELECT 1;
