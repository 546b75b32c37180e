-- Free the unique key of a message that a handler is about to begin with.
-- KEYS[1] unique
-- ARGV[1] the unique key  ARGV[2] id of the message
-- Returns 1, or 0 when another message has the key, or none.
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
