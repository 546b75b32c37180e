-- Make a consumer known to a list queue, with its lease, or show that it lives. Safe to repeat.
-- KEYS[1] list  KEYS[2] list-suspect  KEYS[3] leases  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] landing  KEYS[9] consumers  KEYS[10] seen  KEYS[11] paused  KEYS[12] control
-- KEYS[13] list-front
-- ARGV[1] consumer  ARGV[2] lease in ms  ARGV[3] now in ms or ''
-- Returns nothing.
-- @include clock
redis.pcall('HSET', KEYS[9], ARGV[1], ARGV[2])
redis.pcall('ZADD', KEYS[10], clock(ARGV[3]), ARGV[1])
return false
