-- Puts deliveries into the queue and takes others out, and moves on the offset of `waiting-deliveries` below which the
-- queue reflects everything. Returns how many of each webhook are left.
-- KEYS: owner, webhooks, then the queue of each webhook.
-- ARGV: token, offset that it must reflect, offset that it reflects then, now; for each webhook: name, number of puts,
--   each with bundle offset and entry, number of removals, each with bundle offset.
local owner = redis.call('HMGET', KEYS[1], 'token', 'reflects')
if owner[1] ~= ARGV[1] then
  return redis.error_reply('FENCED another process has claimed the partition')
end
local reflects = tonumber(owner[2])
if not reflects or reflects < tonumber(ARGV[2]) then
  return redis.error_reply('LOST the queue reflects less than it did')
end
local at = 5
local left = {}
for key = 3, #KEYS do
  local queue, webhook, puts = KEYS[key], ARGV[at], tonumber(ARGV[at + 1])
  at = at + 2
  for _ = 1, puts do
    redis.call('ZREMRANGEBYSCORE', queue, ARGV[at], ARGV[at])
    redis.call('ZADD', queue, ARGV[at], ARGV[at + 1])
    at = at + 2
  end
  local removals = tonumber(ARGV[at])
  at = at + 1
  for _ = 1, removals do
    redis.call('ZREMRANGEBYSCORE', queue, ARGV[at], ARGV[at])
    at = at + 1
  end
  local count = redis.call('ZCARD', queue)
  if count == 0 then
    redis.call('HDEL', KEYS[2], webhook)
  else
    redis.call('HSET', KEYS[2], webhook, count)
  end
  left[#left + 1] = count
end
if tonumber(ARGV[3]) > reflects then
  redis.call('HSET', KEYS[1], 'reflects', ARGV[3])
end
redis.call('HSET', KEYS[1], 'written_at', ARGV[4])
return left
