-- Begins the views of a partition anew, unless somebody has begun them later.
-- KEYS: progress. ARGV: version, incarnation.
local found = redis.call('HGET', KEYS[1], 'incarnation')
if found and tonumber(found) >= tonumber(ARGV[2]) then
  return redis.error_reply('LOST a later view was begun')
end
redis.call('HSET', KEYS[1], 'v', ARGV[1], 'incarnation', ARGV[2], 'reflects', '0')
return 1
