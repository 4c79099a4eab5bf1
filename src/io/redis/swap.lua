-- Compare-and-set of one slot. Returns nothing if it was as expected, else what is there.
-- KEYS: slot. ARGV: expected (empty: no slot), new.
local current = redis.call('GET', KEYS[1]) or ''
if current ~= ARGV[1] then
  return { current }
end
if ARGV[2] ~= ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2])
end
return {}
