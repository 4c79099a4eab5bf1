-- Takes records of one partition into the view of a webhook: counts by day, and entries of its log. What the view
-- reflects already is passed over. Returns the offset below which it reflected everything before; -1 if it is new.
-- KEYS: counts, log.
-- ARGV: field of the partition, incarnation, offset below which everything is reflected then, first day that is counted,
--   time from which entries are kept, most entries, life (ms); for each record: offset, day, name of what is counted
--   (empty: nothing), how much, time, entry (empty: none), whether it was answered.
local counts, log, field = KEYS[1], KEYS[2], ARGV[1]
local last = field .. '/last'
local readable, state = pcall(cjson.decode, redis.call('HGET', counts, field) or '')
if not readable or tonumber(state.incarnation) < tonumber(ARGV[2]) then
  state = { incarnation = ARGV[2], reflects = '-1', days = {} }
  redis.call('HDEL', counts, last)
elseif tonumber(state.incarnation) > tonumber(ARGV[2]) then
  return redis.error_reply('LOST a later view was begun')
end
local reflected, first_day = tonumber(state.reflects), tonumber(ARGV[4])
for at = 8, #ARGV, 7 do
  if tonumber(ARGV[at]) >= reflected then
    local day, name, time, entry = ARGV[at + 1], ARGV[at + 2], ARGV[at + 4], ARGV[at + 5]
    if name ~= '' and tonumber(day) >= first_day then
      local counted = state.days[day] or {}
      counted[name] = (counted[name] or 0) + tonumber(ARGV[at + 3])
      state.days[day] = counted
    end
    if entry ~= '' then
      redis.call('ZADD', log, time, entry)
    end
    if ARGV[at + 6] == '1' then
      local known = redis.call('HGET', counts, last)
      if not known or tonumber(string.match(known, '^%-?%d+')) <= tonumber(time) then
        redis.call('HSET', counts, last, time .. ' ' .. entry)
      end
    end
  end
end
for day in pairs(state.days) do
  if tonumber(day) < first_day then
    state.days[day] = nil
  end
end
if tonumber(ARGV[3]) > reflected then
  state.reflects = ARGV[3]
end
redis.call('HSET', counts, field, cjson.encode(state))
redis.call('ZREMRANGEBYSCORE', log, '-inf', '(' .. ARGV[5])
redis.call('ZREMRANGEBYRANK', log, 0, -tonumber(ARGV[6]) - 1)
redis.call('PEXPIRE', counts, ARGV[7])
redis.call('PEXPIRE', log, ARGV[7])
return reflected
