-- Settle deliveries of a consumer, promote what is due, and read from a subscription what passes its
-- filter and the gates of its keys. What does not pass is acknowledged, or waits in the line of its key.
-- KEYS[1] log  KEYS[2] front  KEYS[3] suspect  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] wake  KEYS[9] priority  KEYS[10] lines  KEYS[11] holders  KEYS[12] unique
-- KEYS[13] paused  KEYS[14] sleepers
-- ARGV[1] group  ARGV[2] consumer  ARGV[3] now in ms or ''  ARGV[4] most messages to promote
-- ARGV[5] '1': wake a reader if a retry is due first  ARGV[6] not used  ARGV[7] filter or ''
-- ARGV[8] '1': the topic is ordered  ARGV[9] most entries of the log to look at, up to 1000
-- ARGV[10] most to read  ARGV[11] '1': and a suspect
-- ARGV[12] number of plain acks, all in the log  ARGV[13..] as in settle.lua
-- Returns what take.lua does: the outlook is 'more', 'empty' or '', nothing waits for tokens, no ids.
-- @include clock
-- @include lanes
-- @include moves
-- @include arrive
-- @include expire
-- @include keep
-- @include acks
-- @include settle
-- @include group
-- @include due
-- @include round
-- @include fill
-- @include subject
-- @include sift
local now, most = clock(ARGV[3]), tonumber(ARGV[10])
local ordered = ARGV[8] == '1'
local lost, kept, due, _, woken = settle_and_promote(13, now)
local taken = { s = {}, f = {}, r = {}, over = {} }
if ARGV[11] == '1' then fill(taken, 's', KEYS[3], 1) end
local front = fill(taken, 'f', KEYS[2], most)
local ended = false
if most > front then
  ended = sift(taken, most - front, tonumber(ARGV[9]), ARGV[7], ordered, now)
end
if taken.problem then return redis.error_reply(taken.problem) end
-- If it had no look at the log, there may be something.
local readable = not ended and not (ordered and lines_are_full()) and redis.call('EXISTS', KEYS[13]) == 0
local suspect = unread(KEYS[3]) == 1
local left = readable or unread(KEYS[2]) == 1
local full = front + #taken.r >= most
-- What this one leaves is for others, who may sleep; one wakes the next.
if left and full and (most > 0 or woken > 0) then wake_another(1) end
local outlook = ''
if most > 0 then
  local again = left or suspect and #taken.s == 0 and ARGV[11] == '1'
  outlook = again and 'more' or 'empty'
  if not again then note_sleeper(KEYS[14], ARGV[7], now) end
end
return { lost, kept, due, now, {}, outlook, 0, {}, taken.s, taken.f, taken.r }
