-- Takes the next turn of a webhook that has a limit of deliveries a second, by the clock of Redis: turns are evenly
-- spaced (the generic cell rate algorithm without bursts). Returns 1 if it was taken, else 0 as it is too far away, and
-- in how many microseconds it comes.
-- KEYS: turn. ARGV: microseconds between two turns, furthest turn that is taken in microseconds from now.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local turn = math.max(now, tonumber(redis.call('GET', KEYS[1]) or '0'))
local wait = turn - now
if wait > tonumber(ARGV[2]) then
  return { 0, wait }
end
redis.call('SET', KEYS[1], string.format('%.0f', turn + tonumber(ARGV[1])), 'PX', 60000)
return { 1, wait }
