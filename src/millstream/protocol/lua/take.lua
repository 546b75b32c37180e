-- Settle deliveries of a consumer, promote what is due, and read as much as the limits allow.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] wake  KEYS[9] priority  KEYS[10] lines  KEYS[11] holders  KEYS[12] unique
-- KEYS[13] paused  KEYS[14] rate  KEYS[15] senders  KEYS[16] room  KEYS[17..] as KEYS[16..] of settle.lua
-- ARGV[1] group  ARGV[2] consumer  ARGV[3] now in ms or ''  ARGV[4] most messages to promote
-- ARGV[5] '1': wake a reader if a retry is due first  ARGV[6] priorities to read (see lib/take)
-- ARGV[7] deliveries at a time, 0: any number  ARGV[8] deliveries a period, 0: any number
-- ARGV[9] the period in ms  ARGV[10] burst  ARGV[11] most to read  ARGV[12] '1': and a suspect
-- ARGV[13] number of plain acks, all in ready  ARGV[14..] as in settle.lua
-- Returns lost tokens, {token, error} that could not be settled now, us to the next due message or -1,
-- now, waiting priorities, what comes next ('more', 'tokens', 'slots', 'empty'; '' if nothing was to be read),
-- ms to wait for tokens, last ids of wake, ready, front, suspect, entries of suspect, front, ready; the last as there.
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
-- @include priority
-- @include limits
-- @include fill
-- @include take
-- @include room
local now, most = clock(ARGV[3]), tonumber(ARGV[11])
local lost, kept, due, ended, woken = settle_and_promote(14, now)
local slots = free_slots(tonumber(ARGV[7]))
local were_full = slots <= ended
local bucket = open_bucket(KEYS[14], tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10]), now)
local taken, total, problem = take_lanes(most, math.min(slots, bucket.tokens), now)
-- Also what is urgent may have ended: by its time to live, on its way to the front.
call_sender(KEYS[15], KEYS[16])
if problem then return redis.error_reply(problem) end
charge(bucket, total)
slots = slots - total
local full = #taken.f + #taken.r == most
-- A consumer has one suspect at a time.
local suspects = #taken.s == 0 and ARGV[12] == '1'
local suspect_waits = unread(KEYS[3]) == 1
local others_wait = unread(KEYS[2]) + unread(KEYS[1]) > 0 or not taken.refused and urgent_wait()
-- What this consumer leaves is for others, who may sleep until there is a slot; one wakes the next.
local leaves = full and (others_wait or suspect_waits) or suspect_waits and not suspects
if ARGV[7] ~= '0' and slots > 0 and (leaves or were_full or woken > 0) then wake_another(slots) end
local outlook, wait, since = '', 0, {}
if most > 0 and not (others_wait or suspect_waits and suspects) then
  outlook, since = 'empty', last_ids()
elseif most > 0 and (full or math.min(slots, bucket.tokens) > 0) then
  outlook = 'more'
elseif most > 0 and slots == 0 then
  outlook = 'slots'
elseif most > 0 then
  outlook, wait = 'tokens', promise(bucket, most)
end
-- Without memory for the urgent ones the consumer must not spin.
if taken.refused then due = 1000000 end
return { lost, kept, due, now, taken.refused and {} or levels(), outlook, wait, since, taken.s, taken.f, taken.r, awaited }
