-- Deletes closed windows that are done with.
-- KEYS: owner, open, due, then log and index of each window. ARGV: token, boundary, then their names.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return redis.error_reply('FENCED another process has claimed the partition')
end
for key = 4, #KEYS do
  redis.call('UNLINK', KEYS[key])
end
for name = 3, #ARGV do
  redis.call('ZREM', KEYS[3], ARGV[name])
end
if redis.call('ZCARD', KEYS[3]) == 0 then
  redis.call('HDEL', KEYS[2], ARGV[2])
end
return 1
