-- The claim was accepted: goes on with the state, or begins a new incarnation.
-- KEYS: owner. ARGV: token, version, topic, incarnation (empty: go on), applied.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return redis.error_reply('FENCED another process has claimed the partition')
end
if ARGV[4] == '' then
  -- As for the claim: not to be refused for lack of memory.
  redis.call('HDEL', KEYS[1], '')
  redis.call('HSET', KEYS[1], 'writer', ARGV[1], 'v', ARGV[2])
else
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'token', ARGV[1], 'writer', ARGV[1], 'v', ARGV[2], 'topic', ARGV[3],
    'incarnation', ARGV[4], 'applied', ARGV[5], 'closed', '')
end
return 1
