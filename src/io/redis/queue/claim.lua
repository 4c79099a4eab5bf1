-- Makes a process the claimant of a partition's queue, and returns what is there, with the webhooks that have something
-- in it.
-- KEYS: owner, webhooks. ARGV: token.
redis.call('HSET', KEYS[1], 'token', ARGV[1])
local owner = redis.call('HMGET', KEYS[1], 'v', 'writer', 'incarnation', 'claimed_at', 'reflects', 'written_at')
owner[7] = redis.call('HKEYS', KEYS[2])
return owner
