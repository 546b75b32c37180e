-- Make a queue ready for a consumer: its streams and groups exist, its lease is known.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect  KEYS[4] wake  KEYS[5] consumers
-- KEYS[6] paused  KEYS[7] config
-- ARGV[1] group  ARGV[2] consumer  ARGV[3] lease in ms
-- Returns the number of partitions that the queue was declared with, if it was. Safe to repeat.
-- @include group
-- @include join_groups
-- From the beginning: what was sent before the first consumer came must be delivered.
make_groups(ARGV[1], '0-0')
redis.pcall('HSET', KEYS[5], ARGV[2], ARGV[3])
return redis.call('HGET', KEYS[7], 'partitions')
