-- Keep a producer's place among those who wait for room, or give it up.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] wake  KEYS[9] priority  KEYS[10] lines  KEYS[11] holders  KEYS[12] unique
-- KEYS[13] paused  KEYS[14] senders  KEYS[15] room  KEYS[16] alive
-- ARGV[1] the ticket that it has  ARGV[2] the one that it needs; '': none  ARGV[3] now in ms or ''
-- Returns 1 when its turn has come and there is room, else 0; and the length of the queue.
-- @include clock
-- @include room
-- @include line
local now = clock(ARGV[3])
forget_lapsed(now)
line_up(ARGV[1], ARGV[2], false, now)
local first, fits = first_sender(KEYS[14])
local turn = fits and first == ARGV[2]
if not turn then call_sender(KEYS[14], KEYS[15]) end
return { turn and 1 or 0, queue_length() }
