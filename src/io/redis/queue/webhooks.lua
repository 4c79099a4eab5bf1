-- The webhooks that have something in the queue, each with how many.
-- KEYS: owner, webhooks. ARGV: token, offset that it must reflect.
return redis.call('HGETALL', KEYS[2])
