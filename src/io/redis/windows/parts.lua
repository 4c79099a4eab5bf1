-- Sealed parts: the names of all, the content of one, or the end of some.
-- KEYS: owner, parts. ARGV: token, 'names' | 'read' | 'forget', names.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return redis.error_reply('FENCED another process has claimed the partition')
end
if ARGV[2] == 'names' then
  return redis.call('HKEYS', KEYS[2])
elseif ARGV[2] == 'read' then
  return redis.call('HGET', KEYS[2], ARGV[3]) or ''
end
for name = 3, #ARGV do
  redis.call('HDEL', KEYS[2], ARGV[name])
end
return {}
