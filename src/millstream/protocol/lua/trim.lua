-- Delete from a partition of a topic what it does not keep, the oldest first, some entries a call; now and
-- then, look for subscriptions that nobody has consumed for longer than they live.
-- KEYS[1] log  KEYS[2] config  KEYS[3] counters  KEYS[4] subscriptions  KEYS[5] idle
-- ARGV[1] now in ms or ''  ARGV[2] most entries to delete, from 1000
-- ARGV[3] ms since the last call, by whomever, before which there is nothing to do
-- ARGV[4] ms within which a consumer that lives is heard of
-- Returns how many were deleted, 1 if more may be left to delete and 0 if not, and the names of the
-- subscriptions whose time is over.
-- @include clock
-- @include group
-- @include ids
-- @include handled
-- @include trim
-- @include forgotten
-- @include forgotten_now
if redis.call('EXISTS', KEYS[1]) == 0 then return { 0, 0, {} } end
local now = clock(ARGV[1])
local before = redis.call('HGET', KEYS[3], 'trimmed_at')
-- A look at a thousand subscriptions takes some ms: not with every thousand messages.
local quiet = math.max(tonumber(ARGV[3]), math.floor(redis.call('HLEN', KEYS[4]) / 5))
if before and math.abs(now - before) < quiet then return { 0, 0, {} } end
local deleted = trim(now)
-- Last, for without memory it is refused: there is nothing to delete then, or the script may write.
if not more then redis.pcall('HSET', KEYS[3], 'trimmed_at', now) end
return { deleted, more and 1 or 0, find_forgotten(now, tonumber(ARGV[4])) }
