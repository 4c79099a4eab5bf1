-- The logs and part numbers of windows.
-- KEYS: owner, then log and index of each window. ARGV: guard.
local windows = {}
for key = 2, #KEYS, 2 do
  windows[#windows + 1] = redis.call('GET', KEYS[key]) or ''
  windows[#windows + 1] = redis.call('HGET', KEYS[key + 1], '#p') or '0'
end
return windows
