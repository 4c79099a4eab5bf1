-- Deletes closed windows that are done with: one at least, and no more than fit into one call.
-- KEYS: owner, open, due, then log and index of each window. ARGV: guard, boundary, then their names.
redis.call('UNLINK', unpack(KEYS, 4))
redis.call('ZREM', KEYS[3], unpack(ARGV, 4))
if redis.call('ZCARD', KEYS[3]) == 0 then
  redis.call('HDEL', KEYS[2], ARGV[3])
end
return 1
