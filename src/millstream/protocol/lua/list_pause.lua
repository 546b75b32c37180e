-- Pause a list queue, or let it go on: while `paused` exists no script takes anything.
-- KEYS[1] list  KEYS[2] list-suspect  KEYS[3] leases  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] landing  KEYS[9] consumers  KEYS[10] seen  KEYS[11] paused  KEYS[12] control
-- KEYS[13] list-front
-- ARGV[1] 'pause' or 'resume'
-- Returns 'OK'. Safe to repeat.
-- @include tell
if ARGV[1] == 'pause' then redis.call('HSET', KEYS[11], 'list', 1) else redis.call('DEL', KEYS[11]) end
-- Who sleeps meanwhile listens for it, too.
tell(KEYS[12], 'op', ARGV[1])
return 'OK'
