-- Take over expired leases of a list queue, in one elected consumer; remove dead consumers.
-- KEYS[1] list  KEYS[2] list-suspect  KEYS[3] leases  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] landing  KEYS[9] consumers  KEYS[10] seen  KEYS[11] paused  KEYS[12] control
-- KEYS[13] list-front  KEYS[14] sweeper
-- ARGV[1] consumer  ARGV[2] now in ms or ''  ARGV[3] most deliveries to take over
-- ARGV[4] lease in ms of unregistered consumers  ARGV[5] allowed crashes
-- ARGV[6] ms without a sign of life until a consumer that owns nothing is removed
-- Returns 1 if elected and 0 if not, ms until the next call is due, deliveries moved, messages died.
-- @include clock
-- @include moves
-- @include arrive
-- @include expire
-- @include elements
-- @include place_element
-- @include take_over_element
local now = clock(ARGV[2])
redis.pcall('ZADD', KEYS[10], 'XX', now, ARGV[1])
local owner, ends = unpack(redis.call('HMGET', KEYS[14], 'owner', 'ends'))
if owner and owner ~= ARGV[1] and tonumber(ends) > now then
  return { 0, math.max(100, tonumber(ends) - now), 0, 0 }
end
put_back_landed()
local outcomes = { moved = 0, died = 0, gone = 0, kept = 0 }
local expired = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, ARGV[3])
for _, member in ipairs(expired) do
  local token, consumer = string.match(member, '^(%S+) (.*)$')
  take_over(consumer, token, true, tonumber(ARGV[5]), now, outcomes)
end
count(outcomes, true)
local gone = redis.call('ZRANGEBYSCORE', KEYS[10], '-inf', now - ARGV[6], 'LIMIT', 0, 100)
for _, consumer in ipairs(gone) do
  if redis.call('EXISTS', processing(consumer)) == 0 then forget(consumer) end
end
-- A delivery made just now expires no sooner than the shortest lease.
local wait = tonumber(ARGV[4])
for _, lease in ipairs(redis.call('HVALS', KEYS[9])) do wait = math.min(wait, tonumber(lease)) end
local first = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2]
if first then wait = math.min(wait, first - now) end
wait = outcomes.kept > 0 and 1000 or math.max(20, wait)
-- Without memory nobody is elected: each consumer sweeps, once a second at most.
local saved = redis.pcall('HSET', KEYS[14], 'owner', ARGV[1], 'ends', now + wait + 1000)
if failed(saved) then wait = math.max(1000, wait) end
redis.call('PEXPIRE', KEYS[14], wait + 60000)
return { 1, wait, outcomes.moved, outcomes.died }
