-- Makes a process the claimant of a partition's state, and returns what is there.
-- KEYS: owner. ARGV: token.
redis.call('HSET', KEYS[1], 'token', ARGV[1])
return redis.call('HMGET', KEYS[1], 'v', 'writer', 'topic', 'incarnation', 'applied', 'closed')
