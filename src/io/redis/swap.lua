-- Compare-and-set of one slot. Returns nothing if it is as wanted now, else what is there. That somebody else wrote the
-- very same is as good; it may be that this call is made again because its answer was lost.
-- KEYS: slot. ARGV: expected (empty: no slot), new.
local current = redis.call('GET', KEYS[1]) or ''
if current == ARGV[2] then
  return {}
end
if current ~= ARGV[1] then
  return { current }
end
redis.call('SET', KEYS[1], ARGV[2])
return {}
