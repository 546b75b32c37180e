-- Commit a transaction: if its delivery still belongs to its consumer, store all that it has gathered and
-- acknowledge the delivery; if not, or if anything of it would be refused, nothing changes.
-- KEYS[1] commit  KEYS[2] what says who owns the delivery: its lane, or of a list the hash of the consumer
-- KEYS[3..] those of the parts, one after the other
-- ARGV[1] number of the commit  ARGV[2] ms to remember it  ARGV[3] group, or '' for a list
-- ARGV[4] consumer  ARGV[5] entry in the lane, or token in the hash  ARGV[6] number of parts
-- ARGV[7..] three for each part: its script, or 'writes' (see lib/writes), and how many KEYS and ARGV it
-- has; then the ARGV of all parts, one after the other. The last part acknowledges the delivery.
-- Returns 'done' and what each part has answered; 'lost'; 'full', number of the part, length of its
-- queue; or 'refused', number of the write, why. A repeated commit gets its first answer.
-- @script settle
-- @script take
-- @script sift
-- @script list_fetch
-- @script place
-- @script list_place
-- @script publish
-- @include answered
-- @include writes
-- @include parts
local RUN = { settle = settle, take = take, sift = sift, list_fetch = list_fetch, place = place,
  list_place = list_place, publish = publish, writes = writes }

-- The length of the queue, when it has no room for what place.lua would store there. Where its oldest
-- messages are dropped for it, room is made; `only_look`: not yet.
local function length_if_full(KEYS, ARGV, only_look)
-- @include clock
-- @include moves
-- @include arrive
-- @include expire
-- @include place
-- @include group
-- @include room
-- @include line
-- @include drop
  if only_look then drop = can_drop end
-- @include bound
  local now = clock(ARGV[3])
  take_turn(now)
  return full_for(10 + ARGV[9], #ARGV, 17, now)
end

local function is_owned()
  if ARGV[3] == '' then return redis.call('HEXISTS', KEYS[2], ARGV[5]) == 1 end
  -- Without a group an error has no elements.
  local pending = redis.pcall('XPENDING', KEYS[2], ARGV[3], ARGV[5], ARGV[5], 1)[1]
  return pending and pending[2] == ARGV[4]
end

local repeated = answered(KEYS[1], ARGV[1])
if repeated then return repeated end
if not is_owned() then return { 'lost' } end
local parts = parts_of(3)
local problem = problem_of(parts, length_if_full)
if problem then return problem end
local answer = { 'done' }
for _, part in ipairs(parts) do answer[#answer + 1] = RUN[part.name](part.keys, part.arguments) end
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. cmsgpack.pack(answer), 'PX', ARGV[2])
return answer
