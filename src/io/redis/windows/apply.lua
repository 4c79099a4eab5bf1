-- Applies a batch of one partition: tells which messages sent at once are repeats, appends messages to their windows,
-- seals parts that are full, and moves the applied position on. What is below that position is skipped. Returns how many
-- parts it sealed, a flag for each message sent at once, and the ordinals of the messages of windows that are repeats.
--
-- KEYS: owner, open, parts, then the keys of the filter for repeats, then log, index and due of each window.
-- ARGV: guard, next offset of the batch, last closed boundary, most messages and bytes of a part,
--   span of the filter (ms), its life (ms), number of its keys, number of messages sent at once, number of chats;
--   each message sent at once: index of its present and of its former filter key, field, offset, arrival;
--   each chat: number of windows, each with name and boundary, number of frames of details, each with fingerprint and
--   frame, number of messages, which go to each of the windows, each with offset, id, size, index of its details, frame.
local open, parts = KEYS[2], KEYS[3]
local most_messages, most_bytes = tonumber(ARGV[5]), tonumber(ARGV[6])
local span, life = tonumber(ARGV[7]), ARGV[8]
local filters, at_once, chats = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local at = 12

local repeats = {}
for n = 1, at_once do
  local present, former = KEYS[3 + tonumber(ARGV[at])], KEYS[3 + tonumber(ARGV[at + 1])]
  local field, offset, arrival = ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  at = at + 5
  local known = redis.call('HGET', present, field) or redis.call('HGET', former, field)
  local first, seen
  if known then
    first, seen = string.match(known, '^(%d+):(-?%d+)$')
  end
  if first and tonumber(first) < tonumber(offset) and tonumber(arrival) - tonumber(seen) <= span then
    repeats[n] = '1'
  else
    repeats[n] = '0'
    redis.call('HSET', present, field, offset .. ':' .. arrival)
  end
end

local duplicates, sealed, ordinal = {}, 0, 0
local key = 3 + filters

-- Appends messages to one window. They begin at an argument; so do the frames of details.
local function append(log, index, due, name, boundary, details, at, messages)
  local meta = redis.call('HMGET', index, '#n', '#b', '#p', '#c')
  local count, bytes = tonumber(meta[1] or 0), tonumber(meta[2] or 0)
  local part, chat = tonumber(meta[3] or 0), meta[4]
  local buffer, first = {}, nil
  for at = at, at + 5 * (messages - 1), 5 do
    local offset, id, size = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
    ordinal = ordinal + 1
    if tonumber(offset) >= applied then
      if redis.call('HSETNX', index, '=' .. id, '') == 0 then
        duplicates[#duplicates + 1] = ordinal
      else
        if count > 0 and (count + 1 > most_messages or bytes + size > most_bytes) then
          local full = (redis.call('GET', log) or '') .. table.concat(buffer)
          part = part + 1
          redis.call('HSET', parts, ARGV[4] .. '/' .. offset .. '/' .. part .. '/' .. name, full)
          redis.call('DEL', log)
          buffer, count, bytes, chat = {}, 0, 0, nil
          sealed = sealed + 1
        end
        local detail = details + 2 * tonumber(ARGV[at + 3])
        if chat ~= ARGV[detail] then
          chat = ARGV[detail]
          buffer[#buffer + 1] = ARGV[detail + 1]
        end
        buffer[#buffer + 1] = ARGV[at + 4]
        count, bytes = count + 1, bytes + size
        first = first or offset
      end
    end
  end
  if first then
    redis.call('APPEND', log, table.concat(buffer))
    redis.call('HSET', index, '#n', count, '#b', bytes, '#p', part, '#c', chat)
    if not meta[1] then
      redis.call('ZADD', due, 'NX', first, name)
      -- The chats of a batch come in any order.
      local oldest = redis.call('HGET', open, boundary)
      if not oldest or tonumber(first) < tonumber(oldest) then
        redis.call('HSET', open, boundary, first)
      end
    end
  end
end

for _ = 1, chats do
  local windows, names = tonumber(ARGV[at]), at + 1
  local details = names + 2 * windows + 1
  local first = details + 2 * tonumber(ARGV[details - 1]) + 1
  local messages = tonumber(ARGV[first - 1])
  for window = 0, windows - 1 do
    append(KEYS[key + 1], KEYS[key + 2], KEYS[key + 3], ARGV[names + 2 * window], ARGV[names + 2 * window + 1],
      details, first, messages)
    key = key + 3
  end
  at = first + 5 * messages
end

-- Last: a script whose first write needs no memory is never refused for lack of it.
for n = 1, filters do
  redis.call('PEXPIRE', KEYS[3 + n], life)
end
if tonumber(ARGV[3]) > applied then
  redis.call('HSET', KEYS[1], 'applied', ARGV[3], 'closed', ARGV[4])
end
return { sealed, table.concat(repeats), duplicates }
