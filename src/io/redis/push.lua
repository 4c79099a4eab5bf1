-- Adds an entry at the front of a list, unless it is there already.
-- KEYS: list. ARGV: entry, how many are kept.
if not redis.call('LPOS', KEYS[1], ARGV[1]) then
  redis.call('LPUSH', KEYS[1], ARGV[1])
  redis.call('LTRIM', KEYS[1], 0, ARGV[2] - 1)
end
return 1
