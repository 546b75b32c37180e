-- Give one message that nobody has read yet another time.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] wake  KEYS[9] priority  KEYS[10] lines  KEYS[11] holders  KEYS[12] unique
-- KEYS[13] paused
-- ARGV[1] group  ARGV[2] id of the message  ARGV[3] token of its entry or ''  ARGV[4] now in ms or ''
-- ARGV[5] '+' and a delay in ms, or the ms since 1970
-- Returns 1, 0 when it does not wait there, or -1 when it waits in a topic's log for others, too.
-- @include clock
-- @include lanes
-- @include moves
-- @include arrive
-- @include expire
-- @include group
-- @include due
-- @include place
-- @include waiting
local id, now, first_due = ARGV[2], clock(ARGV[4]), next_due()
local due = due_time(ARGV[5], now) or now
if redis.call('ZSCORE', KEYS[6], id) then
  redis.call('ZADD', KEYS[6], due, id)
else
  local fields, stands = take_waiting(id, ARGV[3])
  if not fields then return stands and -1 or 0 end
  local it = named(fields)
  redis.call('HSET', KEYS[7], id, cmsgpack.pack(fields))
  redis.call('ZADD', KEYS[6], due, id)
  -- It has given up its turn; when its time comes, it takes its place in the line by its id.
  if gated(it) then leave_gate(it.k, id, now) end
end
promote(now, 1)
wake_if_earlier(first_due, next_due(), now)
return 1
