-- Begins every script on windows, but for those of the claim: the claim is in force, its beginning is not lost, and the
-- state is not older than what the claimant has seen of it.
-- KEYS: owner first. ARGV: token, position that is applied at least.
local state = redis.call('HMGET', KEYS[1], 'token', 'writer', 'applied')
if state[1] ~= ARGV[1] then
  return redis.error_reply('FENCED another process has claimed the partition')
end
local applied = tonumber(state[3])
if state[2] ~= ARGV[1] or not applied or applied < tonumber(ARGV[2]) then
  return redis.error_reply('LOST the state is older than what was seen of it')
end

