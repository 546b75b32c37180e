-- Take every delivery from a consumer of a list queue that is gone, and remove it in the end.
-- KEYS[1] list  KEYS[2] list-suspect  KEYS[3] leases  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] landing  KEYS[9] consumers  KEYS[10] seen  KEYS[11] paused  KEYS[12] control
-- KEYS[13] list-front
-- ARGV[1] consumer  ARGV[2] now in ms or ''  ARGV[3] most deliveries to take
-- ARGV[4] '1': it crashed, '0': it left  ARGV[5] allowed crashes
-- Returns deliveries moved, messages that died, 1 when the consumer is removed and 0 if not.
-- @include clock
-- @include moves
-- @include arrive
-- @include expire
-- @include elements
-- @include place_element
-- @include take_over_element
local now, blame = clock(ARGV[2]), ARGV[4] == '1'
local outcomes = { moved = 0, died = 0, gone = 0, kept = 0 }
local tokens = redis.call('HKEYS', processing(ARGV[1]))
table.sort(tokens)
for i = 1, math.min(#tokens, tonumber(ARGV[3])) do
  take_over(ARGV[1], tokens[i], blame, tonumber(ARGV[5]), now, outcomes)
end
count(outcomes, blame)
put_back_landed()
if redis.call('EXISTS', processing(ARGV[1])) == 1 then return { outcomes.moved, outcomes.died, 0 } end
forget(ARGV[1])
return { outcomes.moved, outcomes.died, 1 }
