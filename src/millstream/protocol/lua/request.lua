-- Append a batch of requests to an endpoint's queue, if anybody serves it; a repeated batch stores
-- nothing and gets its first answer.
-- KEYS[1] ready  KEYS[2] counters  KEYS[3] producer  KEYS[4] members
-- ARGV[1] number of the batch  ARGV[2] ms to remember it  ARGV[3] now in ms or ''
-- ARGV[4..] body, headers or '', ms until the deadline, and address of the reply, in turn
-- Returns the id of the first request; the others follow it by one each. Or '': nobody serves it.
-- @include append
-- @include clock
local repeated = answer_to(KEYS[3])
if repeated then return repeated end
-- It expires with its last member.
if redis.call('EXISTS', KEYS[4]) == 0 then return '' end
local now = clock(ARGV[3])
local first, sent = append(KEYS[1], { 4, function(i)
  local deadline = string.format('%.0f drop', after(now, tonumber(ARGV[i + 2])))
  if ARGV[i + 1] == '' then return 'b', ARGV[i], 'x', deadline, 'r', ARGV[i + 3] end
  return 'b', ARGV[i], 'x', deadline, 'r', ARGV[i + 3], 'h', ARGV[i + 1]
end })
note(KEYS[2], 'sent', sent, KEYS[3], first)
return first
