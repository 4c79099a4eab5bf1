-- The boundaries at which windows are open, each with the first offset of its oldest window.
-- KEYS: owner, open. ARGV: guard.
return redis.call('HGETALL', KEYS[2])
