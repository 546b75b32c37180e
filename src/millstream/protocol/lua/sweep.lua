-- Take over expired leases, in one elected consumer, some entries a call; remove dead consumers.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] wake  KEYS[9] priority  KEYS[10] lines  KEYS[11] holders  KEYS[12] unique
-- KEYS[13] paused  KEYS[14] consumers  KEYS[15] sweeper  KEYS[16] senders  KEYS[17] room
-- ARGV[1] group  ARGV[2] consumer  ARGV[3] now in ms or ''  ARGV[4] most entries to look at
-- ARGV[5] lease in ms of unregistered consumers  ARGV[6] allowed crashes
-- ARGV[7] ms without a sign of life until a consumer that owns nothing is removed
-- Returns 1 if elected and 0 if not, ms until the next call is due, deliveries moved, messages died.
-- @include clock
-- @include moves
-- @include arrive
-- @include expire
-- @include slots
-- @include take_over
-- @include remove_consumers
-- @include life
-- @include room
-- @include sweep
local now = clock(ARGV[3])
show_life()
local owner, ends, lane, cursor, soonest =
  unpack(redis.call('HMGET', KEYS[15], 'owner', 'ends', 'lane', 'cursor', 'soonest'))
if owner and owner ~= ARGV[2] and tonumber(ends) > now then
  return { 0, math.max(100, tonumber(ends) - now), 0, 0 }
end
lane, cursor, soonest = tonumber(lane) or 1, cursor or '-', tonumber(soonest) or shortest_lease()
local left = tonumber(ARGV[4])
local outcomes = { moved = 0, died = 0, gone = 0, kept = 0 }
while left > 0 and lane <= 3 do
  local seen, last, first_expiry = sweep_lane(KEYS[lane], cursor, left, outcomes, now)
  left = left - seen
  soonest = math.min(soonest, first_expiry)
  if left > 0 then
    lane, cursor = lane + 1, '-'
  else
    cursor = '(' .. last
  end
end
count(outcomes, true)
call_sender(KEYS[16], KEYS[17])
local wait
if lane <= 3 then
  -- More to look at: come back soon, but let others use the server in between.
  wait = 20
else
  remove_dead_consumers(tonumber(ARGV[7]))
  wait = outcomes.kept > 0 and 1000 or math.max(20, math.min(soonest, wake_again()))
  lane, cursor, soonest = 1, '-', false
end
-- Without memory nobody is elected: each consumer sweeps, from the start, and once a second at most.
local saved = redis.pcall('HSET', KEYS[15], 'owner', ARGV[2], 'ends', now + wait + 1000,
  'lane', lane, 'cursor', cursor, 'soonest', soonest or '')
if failed(saved) then wait = math.max(1000, wait) end
redis.call('PEXPIRE', KEYS[15], wait + 60000)
return { 1, wait, outcomes.moved, outcomes.died }
