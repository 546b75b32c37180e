-- After messages were read at most once: delete them, and tell what is left.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] wake  KEYS[9] priority  KEYS[10] lines  KEYS[11] holders  KEYS[12] unique
-- KEYS[13] paused  KEYS[14] senders  KEYS[15] room
-- ARGV[1] group  ARGV[2] now in ms or ''
-- Returns us to the next due message or -1, whether front, suspect and ready have unread messages (1
-- or 0 each), now, waiting priorities, the last ids of wake, ready, front and suspect.
-- @include clock
-- @include moves
-- @include arrive
-- @include expire
-- @include group
-- @include due
-- @include priority
-- @include room
-- @include clear
local now = clock(ARGV[2])
local wake = redis.call('XREVRANGE', KEYS[8], '+', '-', 'COUNT', 1)[1]
local cleared, since, left = 0, { wake and wake[1] or '0-0' }, {}
for i = 1, 3 do
  local group = find_group(KEYS[i], ARGV[1])
  cleared = cleared + clear(KEYS[i], group, now)
  since[i + 1] = group and group['last-delivered-id'] or '0-0'
  left[i] = 0
  if redis.call('XLEN', KEYS[i]) > 0 then
    left[i] = #redis.call('XRANGE', KEYS[i], unread_from(group), '+', 'COUNT', 1)
  end
end
if cleared > 0 then
  redis.pcall('HINCRBY', KEYS[5], 'acked', cleared)
  call_sender(KEYS[14], KEYS[15])
end
return { microseconds(now, next_due()), left[2], left[3], left[1], now, levels(), since }
