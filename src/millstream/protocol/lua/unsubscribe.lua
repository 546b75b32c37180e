-- Remove a subscription of a topic, with all that waits for it.
-- KEYS[1] log  KEYS[2] subscriptions  KEYS[3] idle  KEYS[4..] its own keys
-- ARGV[1] its name
-- Returns 1, or 0 when there was none.
local existed = redis.call('HDEL', KEYS[2], ARGV[1])
if redis.call('EXISTS', KEYS[1]) == 1 then
  existed = math.max(existed, redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1]))
end
redis.call('HDEL', KEYS[3], ARGV[1])
redis.call('UNLINK', unpack(KEYS, 4))
return existed
