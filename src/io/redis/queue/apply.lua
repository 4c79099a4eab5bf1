-- Puts deliveries into the queue and takes others out, and moves on the offset of `waiting-deliveries` below which the
-- queue reflects everything. A call that is carried out again changes nothing, however late that is. Returns how many of
-- each webhook are left.
-- KEYS: owner, webhooks, then the queue of each webhook.
-- ARGV: token, offset that it must reflect, offset that it reflects then, now, number of all puts; for each webhook: name, number of puts,
--   each with bundle offset and entry, number of removals, each with bundle offset.
local is_new = tonumber(ARGV[3]) > reflects
if is_new then
  -- Where there is no memory, Redis refuses a script's first write if that may need some. So puts are refused before
  -- anything has changed; where there are none, a first write that needs nothing lets the others pass.
  if tonumber(ARGV[5]) == 0 then
    redis.call('HDEL', KEYS[2], '')
  end
  redis.call('HSET', KEYS[1], 'reflects', ARGV[3], 'written_at', ARGV[4])
end
local at = 6
local left = {}
for key = 3, #KEYS do
  local queue, webhook, puts = KEYS[key], ARGV[at], tonumber(ARGV[at + 1])
  at = at + 2
  for _ = 1, puts do
    if is_new then
      redis.call('ZREMRANGEBYSCORE', queue, ARGV[at], ARGV[at])
      redis.call('ZADD', queue, ARGV[at], ARGV[at + 1])
    end
    at = at + 2
  end
  local removals = tonumber(ARGV[at])
  at = at + 1
  for _ = 1, removals do
    if is_new then
      redis.call('ZREMRANGEBYSCORE', queue, ARGV[at], ARGV[at])
    end
    at = at + 1
  end
  local count = redis.call('ZCARD', queue)
  if is_new then
    if count == 0 then
      redis.call('HDEL', KEYS[2], webhook)
    else
      redis.call('HSET', KEYS[2], webhook, count)
    end
  end
  left[#left + 1] = count
end
return left
