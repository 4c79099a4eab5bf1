-- Moves on the offset below which the views of a partition reflect everything.
-- KEYS: progress. ARGV: incarnation, offset that they must reflect, offset that they reflect now.
local found = redis.call('HMGET', KEYS[1], 'incarnation', 'reflects')
local reflects = tonumber(found[2])
if found[1] ~= ARGV[1] or not reflects or reflects < tonumber(ARGV[2]) then
  return redis.error_reply('LOST the views of the partition are gone or went backwards')
end
if tonumber(ARGV[3]) > reflects then
  redis.call('HSET', KEYS[1], 'reflects', ARGV[3])
end
return 1
