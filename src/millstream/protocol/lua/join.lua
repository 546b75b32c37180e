-- A worker shows that it lives, and learns who else shares the partitions of a queue; or it leaves.
-- KEYS[1] members  KEYS[2] control  KEYS[3] config
-- ARGV[1] worker  ARGV[2] now in ms or ''  ARGV[3] ms until its share goes to others; 0: it leaves
-- ARGV[4] number of partitions; 0: nobody shares them, it is only to be known who lives
-- Returns the number of partitions that the queue is declared with, then the members.
-- @include clock
-- @include tell
local now, stay = clock(ARGV[2]), tonumber(ARGV[3])
local number = redis.call('HGET', KEYS[3], 'partitions')
local changed = redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if stay > 0 then
  if not number and ARGV[4] ~= '0' then redis.pcall('HSET', KEYS[3], 'partitions', ARGV[4]) end
  -- Without memory nobody can be noted. Whoever comes reads all the same: that makes room.
  local added = redis.pcall('ZADD', KEYS[1], now + stay, ARGV[1])
  if type(added) == 'number' then changed = changed + added end
  redis.call('PEXPIRE', KEYS[1], stay)
else
  changed = changed + redis.call('ZREM', KEYS[1], ARGV[1])
end
if changed > 0 then tell(KEYS[2], 'op', 'members') end
local found = redis.call('ZRANGE', KEYS[1], 0, -1)
table.insert(found, 1, number or ARGV[4])
return found
