-- A page of the windows that end at a boundary, in the order of their first offsets.
-- KEYS: owner, due. ARGV: token, first and last rank.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return redis.error_reply('FENCED another process has claimed the partition')
end
return redis.call('ZRANGE', KEYS[2], ARGV[2], ARGV[3], 'WITHSCORES')
