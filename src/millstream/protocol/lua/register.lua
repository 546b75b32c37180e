-- Make a queue ready for a consumer: its streams and groups exist, its lease is known.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect  KEYS[4] wake  KEYS[5] consumers
-- ARGV[1] group  ARGV[2] consumer  ARGV[3] lease in ms
-- Returns 'OK'. Safe to repeat.
-- @include group
for i = 1, 4 do
  -- Looking first lets a worker start on a server without free memory, which it will free.
  if not find_group(KEYS[i], ARGV[1]) then
    -- From 0, not from the end: what was sent before the first consumer came must be delivered.
    redis.call('XGROUP', 'CREATE', KEYS[i], ARGV[1], '0', 'MKSTREAM')
  end
end
redis.pcall('HSET', KEYS[5], ARGV[2], ARGV[3])
return 'OK'
