-- The webhooks that have something in the queue, each with how many.
-- KEYS: owner, webhooks. ARGV: token.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return redis.error_reply('FENCED another process has claimed the partition')
end
return redis.call('HGETALL', KEYS[2])
