-- Entries of a webhook's queue after a bundle offset, in order.
-- KEYS: owner, webhooks, queue of the webhook. ARGV: token, offset that it must reflect, webhook, bundle offset, most.
if tonumber(redis.call('HGET', KEYS[2], ARGV[3]) or '0') ~= redis.call('ZCARD', KEYS[3]) then
  return redis.error_reply('LOST entries are missing in the queue')
end
return redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. ARGV[4], '+inf', 'LIMIT', 0, ARGV[5])
