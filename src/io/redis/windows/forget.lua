-- Deletes closed windows that are done with.
-- KEYS: owner, open, due, then log and index of each window. ARGV: guard, boundary, then their names.
for key = 4, #KEYS do
  redis.call('UNLINK', KEYS[key])
end
for name = 4, #ARGV do
  redis.call('ZREM', KEYS[3], ARGV[name])
end
if redis.call('ZCARD', KEYS[3]) == 0 then
  redis.call('HDEL', KEYS[2], ARGV[3])
end
return 1
