-- What the console asks: whose payments and checkouts these are, and whose phone has paid.
CREATE INDEX payments_of_user ON payments (user_id, id) WHERE user_id IS NOT NULL;
CREATE INDEX payments_of_phone ON payments (phone_hash, id) WHERE phone_hash IS NOT NULL;
CREATE INDEX checkouts_of_user ON checkouts (user_id, id);
CREATE INDEX payments_of_mask ON payments (phone_mask, id) WHERE phone_mask IS NOT NULL;
CREATE INDEX checkouts_of_mask ON checkouts (phone_mask, id) WHERE phone_mask IS NOT NULL;
-- Events that wait or are dead, among many that were delivered.
CREATE INDEX letters_undelivered ON letters (state, id) WHERE state <> 'delivered';
