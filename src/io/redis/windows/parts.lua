-- Sealed parts: the names of all, the content of one, or the end of some.
-- KEYS: owner, parts. ARGV: guard, 'names' | 'read' | 'forget', names.
if ARGV[3] == 'names' then
  return redis.call('HKEYS', KEYS[2])
elseif ARGV[3] == 'read' then
  return redis.call('HGET', KEYS[2], ARGV[4]) or ''
end
for name = 4, #ARGV do
  redis.call('HDEL', KEYS[2], ARGV[name])
end
return {}
