-- Remove a schedule; workers that run do not bring it back.
-- KEYS[1] schedules  KEYS[2] mark of its removal
-- ARGV[1] name  ARGV[2] ms to remember the removal
-- Returns 1, or 0 when there is none.
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('SET', KEYS[2], 1, 'PX', ARGV[2])
return 1
