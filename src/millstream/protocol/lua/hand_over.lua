-- Take every delivery from a consumer that is gone, and remove it once it owns nothing.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] wake  KEYS[9] priority  KEYS[10] lines  KEYS[11] holders  KEYS[12] unique
-- KEYS[13] paused  KEYS[14] consumers  KEYS[15] senders  KEYS[16] room
-- ARGV[1] group  ARGV[2] consumer  ARGV[3] now in ms or ''  ARGV[4] most deliveries to take
-- ARGV[5] '1': it crashed, '0': it left  ARGV[6] allowed crashes
-- ARGV[7] why nobody gets any of them again, or '': others do
-- Returns deliveries moved, messages that died, 1 when the consumer is removed and 0 if not.
-- @include clock
-- @include moves
-- @include arrive
-- @include expire
-- @include slots
-- @include take_over
-- @include remove_consumers
-- @include room
local now = clock(ARGV[3])
local blame = ARGV[5] == '1'
local reason = ARGV[7] ~= '' and ARGV[7] or nil
local outcomes = { moved = 0, died = 0, gone = 0, kept = 0 }
local left = tonumber(ARGV[4])
for i = 1, 3 do
  if left > 0 and redis.call('EXISTS', KEYS[i]) == 1 then
    for _, entry in ipairs(redis.call('XPENDING', KEYS[i], ARGV[1], '-', '+', left, ARGV[2])) do
      local outcome = take_over(KEYS[i], ARGV[1], entry[1], blame, tonumber(ARGV[6]), now, reason)
      outcomes[outcome] = outcomes[outcome] + 1
      left = left - 1
    end
  end
end
count(outcomes, blame)
call_sender(KEYS[15], KEYS[16])
if left == 0 or outcomes.kept > 0 then return { outcomes.moved, outcomes.died, 0 } end
remove_consumer(ARGV[2])
-- It may have been the only one that knew when the next message is due, that there are urgent ones,
-- or that a log has more for its filter: let another one look.
if redis.call('EXISTS', KEYS[8]) == 1 and (log or redis.call('EXISTS', KEYS[6], KEYS[9]) > 0) then
  redis.pcall('XADD', KEYS[8], 'MAXLEN', 16, '*', 'due', 'unknown')
end
return { outcomes.moved, outcomes.died, 1 }
