-- The beginning of every script on a queue that was begun: it belongs to the claim of this token, which began it, and
-- reflects as much of `waiting-deliveries` as the claimant has seen. A failover may have lost any of that.
-- KEYS: owner, … ARGV: token, offset that it must reflect, …
local owner = redis.call('HMGET', KEYS[1], 'token', 'writer', 'reflects')
if owner[1] ~= ARGV[1] then
  return redis.error_reply('FENCED another process has claimed the partition')
end
local reflects = tonumber(owner[3])
if owner[2] ~= ARGV[1] or not reflects or reflects < tonumber(ARGV[2]) then
  return redis.error_reply('LOST the queue reflects less than it did')
end
