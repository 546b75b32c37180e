-- Settle deliveries of a list queue, promote what is due, and take messages: one call a batch.
-- KEYS[1] list  KEYS[2] list-suspect  KEYS[3] leases  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] landing  KEYS[9] consumers  KEYS[10] seen  KEYS[11] paused  KEYS[12] control
-- KEYS[13] list-front
-- ARGV[1] consumer  ARGV[2] now in ms or ''  ARGV[3] most messages to promote
-- ARGV[4] '1': wake a reader if a retry is due first  ARGV[5] most messages to take
-- ARGV[6] '1': and a suspect  ARGV[7] number of plain acks
-- ARGV[8..] their tokens, then the other settlements (see lib/round)
-- Returns lost tokens, {token, error} that could not be settled now, us to the next due message
-- or -1, whether suspects wait (1 or 0), now, of a paused queue the last id of control, else '',
-- and the entries: {token, fields}.
-- @include clock
-- @include moves
-- @include arrive
-- @include expire
-- @include elements
-- @include place_element
-- @include end_element
-- @include due
-- @include place
-- @include take_elements
local consumer, now, most = ARGV[1], clock(ARGV[2]), tonumber(ARGV[5])
local first_due = next_due()
local lost, kept = end_all(consumer, 8, now)
local due = next_due()
if ARGV[4] == '1' and due and (not first_due or due < first_due) then nudge() end
if due and due <= now then
  local refused = promote(now, ARGV[3])
  -- Without memory the same message is due again and again: the consumer must not spin.
  due = refused and now + 1000 or next_due()
end
put_back_landed()
local entries, paused = {}, ''
if redis.call('EXISTS', KEYS[11]) == 1 then
  local last = redis.call('XREVRANGE', KEYS[12], '+', '-', 'COUNT', 1)[1]
  paused = last and last[1] or '0-0'
elseif most > 0 or ARGV[6] == '1' then
  local lease = redis.call('HGET', KEYS[9], consumer)
  -- As a stream would say it: the consumer has to make itself known again.
  if not lease then return redis.error_reply('NOGROUP the consumer is not known to the queue') end
  local problem, left
  if ARGV[6] == '1' then left, problem = take(KEYS[2], 's', 1, consumer, lease, now, entries) end
  if not problem then left, problem = take(KEYS[13], 'f', most, consumer, lease, now, entries) end
  if not problem then left, problem = take(KEYS[1], '', left, consumer, lease, now, entries) end
  -- One wakes the next: no sleep sees what this consumer leaves of those lists.
  local takes_suspects = #entries > 0 and string.sub(entries[1][1], 1, 1) == 's'
  local leaves = most > 0 and redis.call('EXISTS', KEYS[13]) == 1
  if leaves or takes_suspects and redis.call('EXISTS', KEYS[2]) == 1 then nudge() end
  if problem and #entries == 0 then return redis.error_reply(problem) end
end
redis.pcall('ZADD', KEYS[10], 'XX', now, consumer)
return { lost, kept, microseconds(now, due), redis.call('EXISTS', KEYS[2]), now, paused, entries }
