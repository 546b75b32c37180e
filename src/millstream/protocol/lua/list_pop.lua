-- Take messages of a list queue at most once; before that, take back what was handed out, and promote.
-- KEYS[1] list  KEYS[2] list-suspect  KEYS[3] leases  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] landing  KEYS[9] consumers  KEYS[10] seen  KEYS[11] paused  KEYS[12] control
-- KEYS[13] list-front  KEYS[14] returned
-- ARGV[1] consumer  ARGV[2] now in ms or ''  ARGV[3] most messages to promote
-- ARGV[4] most messages to take  ARGV[5..] what comes back (see lib/give_back)
-- Returns {number, error} of what could not be stored now, us to the next due message or -1, now, of
-- a paused queue the last id of control, else '', and what was taken: `ms1 <id>`, a line end and
-- the body, or, when there is more to it, {id, fields}.
-- @include clock
-- @include moves
-- @include arrive
-- @include expire
-- @include elements
-- @include place_element
-- @include due
-- @include place
-- @include pop_elements
-- @include give_back
local consumer, now, most = ARGV[1], clock(ARGV[2]), tonumber(ARGV[4])
local kept = give_back(5, KEYS[14], now)
local due = next_due()
if due and due <= now then
  local refused = promote(now, ARGV[3])
  -- Without memory the same message is due again and again: the consumer must not spin.
  due = refused and now + 1000 or next_due()
end
put_back_landed()
local taken, paused = {}, ''
if redis.call('EXISTS', KEYS[11]) == 1 then
  local last = redis.call('XREVRANGE', KEYS[12], '+', '-', 'COUNT', 1)[1]
  paused = last and last[1] or '0-0'
elseif most > 0 then
  -- As a stream would say it: the consumer has to make itself known again.
  if redis.call('HEXISTS', KEYS[9], consumer) == 0 then
    return redis.error_reply('NOGROUP the consumer is not known to the queue')
  end
  for _, list in ipairs({ KEYS[2], KEYS[13], KEYS[1] }) do pop(list, most, taken, now) end
  if #taken > 0 then redis.pcall('HINCRBY', KEYS[5], 'acked', #taken) end
  -- One wakes the next: no sleep sees what this consumer leaves of those lists.
  if redis.call('EXISTS', KEYS[2], KEYS[13]) > 0 then nudge() end
end
redis.pcall('ZADD', KEYS[10], 'XX', now, consumer)
forget_silent(now - 300000)
return { kept, microseconds(now, due), now, paused, taken }
