-- A page of the windows that end at a boundary, in the order of their first offsets.
-- KEYS: owner, due. ARGV: guard, first and last rank.
return redis.call('ZRANGE', KEYS[2], ARGV[3], ARGV[4], 'WITHSCORES')
