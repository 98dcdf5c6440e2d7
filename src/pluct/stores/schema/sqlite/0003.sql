-- What users ask for (`POST /v1/credits/request`), newest first.
CREATE INDEX payment_events_by_claim ON payment_events (id) WHERE gateway = 'claim';
