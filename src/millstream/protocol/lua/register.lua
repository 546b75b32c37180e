-- Make a queue ready for a consumer: its streams and groups exist, its lease is known.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect  KEYS[4] wake  KEYS[5] consumers
-- KEYS[6] paused  KEYS[7] config
-- ARGV[1] group  ARGV[2] consumer  ARGV[3] lease in ms
-- Returns the number of partitions that the queue was declared with, if it was. Safe to repeat.
-- @include group
local paused = redis.call('EXISTS', KEYS[6]) == 1
for i = 1, 4 do
  -- Looking first lets a worker start on a server without free memory, which it will free.
  if not find_group(KEYS[i], ARGV[1]) then
    -- From 0, not from the end: what was sent before the first consumer came must be delivered.
    -- A lane of a paused queue comes back paused, and begins from 0 when the queue goes on.
    local held = paused and i < 4
    if held then redis.call('HSET', KEYS[6], lane_name(KEYS[i]), '0-0') end
    redis.call('XGROUP', 'CREATE', KEYS[i], ARGV[1], held and NOWHERE or '0', 'MKSTREAM')
  end
end
redis.pcall('HSET', KEYS[5], ARGV[2], ARGV[3])
return redis.call('HGET', KEYS[7], 'partitions')
