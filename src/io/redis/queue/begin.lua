-- The claim was accepted: goes on with the queue, or begins an empty one.
-- KEYS: owner, webhooks, then the queue of each webhook if a new one begins.
-- ARGV: token, version, offset of the claim's record, offset that it reflects (empty: go on), now. A new queue's
--   incarnation is the token.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return redis.error_reply('FENCED another process has claimed the partition')
end
if ARGV[4] == '' then
  redis.call('HSET', KEYS[1], 'writer', ARGV[1], 'claimed_at', ARGV[3])
  return 1
end
for key = 2, #KEYS do
  redis.call('UNLINK', KEYS[key])
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'token', ARGV[1], 'writer', ARGV[1], 'incarnation', ARGV[1], 'v', ARGV[2],
  'claimed_at', ARGV[3], 'reflects', ARGV[4], 'written_at', ARGV[5])
return 1
