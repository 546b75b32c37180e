-- Accept a batch of messages of a list queue that are more than a body; a repeated batch gets its
-- first answer.
-- KEYS[1] list  KEYS[2] list-suspect  KEYS[3] leases  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] landing  KEYS[9] consumers  KEYS[10] seen  KEYS[11] paused  KEYS[12] control
-- KEYS[13] list-front  KEYS[14] producer
-- ARGV[1] number of the batch  ARGV[2] ms to remember it  ARGV[3] now in ms or ''
-- ARGV[4..] five for each message: body, headers, key, time ('+' and a delay in ms, or the ms since
-- 1970), time to live ('' or ms, perhaps with ' drop'); each '' when there is none
-- Returns the id of each message.
-- @include clock
-- @include moves
-- @include arrive
-- @include expire
-- @include elements
-- @include place_element
-- @include due
-- @include answered
-- @include place
local repeated = answered(KEYS[14], ARGV[1])
if repeated then return repeated end
local now, first_due, answer = clock(ARGV[3]), next_due(), {}
for i = 4, #ARGV, 5 do
  local id, due = new_id(now), due_time(ARGV[i + 3], now)
  local lives, drop = string.match(ARGV[i + 4], '^(%d+)(.*)$')
  local fields = { 'b', ARGV[i] }
  local function add(name, value)
    if value == '' then return end
    fields[#fields + 1] = name
    fields[#fields + 1] = value
  end
  add('h', ARGV[i + 1])
  add('k', ARGV[i + 2])
  add('x', lives and string.format('%.0f', now + lives) .. drop or '')
  if due then
    redis.call('HSET', KEYS[7], id, cmsgpack.pack(fields))
    redis.call('ZADD', KEYS[6], due, id)
  else
    redis.call('LPUSH', KEYS[1], encode(id, fields))
  end
  answer[#answer + 1] = id
end
local due = next_due()
if due and (not first_due or due < first_due) then nudge() end
redis.call('HINCRBY', KEYS[5], 'sent', #answer)
redis.call('SET', KEYS[14], ARGV[1] .. ' ' .. cmsgpack.pack(answer), 'PX', ARGV[2])
return answer
