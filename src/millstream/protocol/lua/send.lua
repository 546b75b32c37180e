-- Append a batch of messages to a queue; a repeated batch stores nothing and gets its first answer.
-- KEYS[1] ready  KEYS[2] counters  KEYS[3] producer
-- ARGV[1] number of the batch  ARGV[2] ms to remember it  ARGV[3] 'b' or 'bh'
-- ARGV[4..] the bodies ('b'), or body and headers in turn ('bh'; headers '' when there are none)
-- Returns the id of the first message; the others follow it by one each.
-- @include append
local repeated = answer_to(KEYS[3])
if repeated then return repeated end
local first, sent = append(KEYS[1], FORMS[ARGV[3]])
note(KEYS[2], 'sent', sent, KEYS[3], first)
return first
