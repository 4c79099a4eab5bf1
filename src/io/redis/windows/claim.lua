-- Makes a process the claimant of a partition's state, and returns what is there.
-- KEYS: owner. ARGV: token.
-- Begins with a deletion (of nothing), since a script that has written is not refused for lack of memory: what is closed
-- by the claimant frees memory.
redis.call('HDEL', KEYS[1], '')
redis.call('HSET', KEYS[1], 'token', ARGV[1])
return redis.call('HMGET', KEYS[1], 'v', 'writer', 'topic', 'incarnation', 'applied', 'closed')
