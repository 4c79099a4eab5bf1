-- Applies a batch of one partition: tells which messages sent at once are repeats, appends messages to their windows,
-- seals parts that are full, and moves the applied position on. What is below that position is skipped. Returns how many
-- parts it sealed, a flag for each message sent at once, and the ordinals of the messages of windows that are repeats.
--
-- KEYS: owner, open, parts, then the keys of the filter for repeats, due of each boundary, log and index of each window.
-- ARGV: guard, next offset of the batch, last closed boundary, most messages and bytes of a part,
--   span of the filter (ms), its life (ms), number of its keys, number of messages sent at once, number of boundaries,
--   number of bytes before the name of a window in a key, number of chats;
--   each boundary; each message sent at once: index of its present and of its former filter key, field, offset, arrival;
--   each chat: number of windows, for each the number of its boundary, number of frames of details, each with fingerprint
--   and frame, number of messages, which go to each of the windows, each with offset, id, size, index of its details, frame.
local call = redis.call
local open, parts = KEYS[2], KEYS[3]
local most_messages, most_bytes = tonumber(ARGV[5]), tonumber(ARGV[6])
local span, life = tonumber(ARGV[7]), ARGV[8]
local filters, at_once, boundaries = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local name_at, chats = tonumber(ARGV[12]) + 1, tonumber(ARGV[13])
local at = 14 + boundaries

local repeats = {}
for n = 1, at_once do
  local present, former = KEYS[3 + tonumber(ARGV[at])], KEYS[3 + tonumber(ARGV[at + 1])]
  local field, offset, arrival = ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  at = at + 5
  local known = call('HGET', present, field) or call('HGET', former, field)
  local first, seen
  if known then
    first, seen = string.match(known, '^(%d+):(-?%d+)$')
  end
  if first and tonumber(first) < tonumber(offset) and tonumber(arrival) - tonumber(seen) <= span then
    repeats[n] = '1'
  else
    repeats[n] = '0'
    call('HSET', present, field, offset .. ':' .. arrival)
  end
end

local duplicates, sealed, ordinal = {}, 0, 0
local key = 3 + filters + boundaries

-- What the windows of a chat get is mostly the same: it is put together once.
local joined, whole = {}, ''
local function join(frames)
  local same = #frames == #joined
  for n = 1, #frames do
    same = same and frames[n] == joined[n]
  end
  if not same then
    joined, whole = frames, table.concat(frames)
  end
  return whole
end

-- Appends messages, as they are read below, to one window.
local function append(log, index, boundary, messages)
  local meta = call('HMGET', index, '#n', '#b', '#p', '#c')
  local count, bytes = tonumber(meta[1] or 0), tonumber(meta[2] or 0)
  local part, chat = tonumber(meta[3] or 0), meta[4]
  local buffer, first = {}, nil
  for n = 1, #messages do
    local message = messages[n]
    local offset, size = message.offset, message.size
    if call('HSETNX', index, message.field, '') == 0 then
      duplicates[#duplicates + 1] = ordinal + message.place
    else
      if count > 0 and (count + 1 > most_messages or bytes + size > most_bytes) then
        local full = (call('GET', log) or '') .. table.concat(buffer)
        part = part + 1
        call('HSET', parts, ARGV[4] .. '/' .. offset .. '/' .. part .. '/' .. string.sub(log, name_at), full)
        call('DEL', log)
        buffer, count, bytes, chat = {}, 0, 0, nil
        sealed = sealed + 1
      end
      if chat ~= message.chat then
        chat = message.chat
        buffer[#buffer + 1] = message.details
      end
      buffer[#buffer + 1] = message.frame
      count, bytes = count + 1, bytes + size
      first = first or offset
    end
  end
  if first then
    call('APPEND', log, join(buffer))
    if part == tonumber(meta[3]) and chat == meta[4] then
      call('HSET', index, '#n', count, '#b', bytes)
    else
      call('HSET', index, '#n', count, '#b', bytes, '#p', part, '#c', chat)
    end
    if not meta[1] then
      call('ZADD', KEYS[3 + filters + boundary], 'NX', first, string.sub(log, name_at))
      -- The chats of a batch come in any order.
      local ends = ARGV[13 + boundary]
      local oldest = call('HGET', open, ends)
      if not oldest or tonumber(first) < tonumber(oldest) then
        call('HSET', open, ends, first)
      end
    end
  end
end

for _ = 1, chats do
  local windows = tonumber(ARGV[at])
  local details = at + windows + 2
  local first = details + 2 * tonumber(ARGV[details - 1]) + 1
  local all = tonumber(ARGV[first - 1])
  local messages = {}
  for place = 1, all do
    local at = first + 5 * (place - 1)
    if tonumber(ARGV[at]) >= applied then
      local detail = details + 2 * tonumber(ARGV[at + 3])
      messages[#messages + 1] = {
        place = place, offset = ARGV[at], field = '=' .. ARGV[at + 1], size = tonumber(ARGV[at + 2]),
        chat = ARGV[detail], details = ARGV[detail + 1], frame = ARGV[at + 4],
      }
    end
  end
  for window = 1, windows do
    append(KEYS[key + 1], KEYS[key + 2], tonumber(ARGV[at + window]), messages)
    key, ordinal = key + 2, ordinal + all
  end
  at = first + 5 * all
end

-- Last: a script whose first write needs no memory is never refused for lack of it.
for n = 1, filters do
  call('PEXPIRE', KEYS[3 + n], life)
end
if tonumber(ARGV[3]) > applied then
  call('HSET', KEYS[1], 'applied', ARGV[3], 'closed', ARGV[4])
end
return { sealed, table.concat(repeats), duplicates }
