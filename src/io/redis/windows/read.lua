-- The logs and part numbers of windows.
-- KEYS: owner, then log and index of each window. ARGV: token.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return redis.error_reply('FENCED another process has claimed the partition')
end
local windows = {}
for key = 2, #KEYS, 2 do
  windows[#windows + 1] = redis.call('GET', KEYS[key]) or ''
  windows[#windows + 1] = redis.call('HGET', KEYS[key + 1], '#p') or '0'
end
return windows
