-- The boundaries at which windows are open, each with the first offset of its oldest window.
-- KEYS: owner, open. ARGV: token.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return redis.error_reply('FENCED another process has claimed the partition')
end
return redis.call('HGETALL', KEYS[2])
