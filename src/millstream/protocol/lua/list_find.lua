-- Cancel a message of a list queue that nobody has taken, or give it another time, if it is delayed
-- or in a page of a list; lists are searched from the side where messages come in.
-- KEYS[1] list  KEYS[2] list-suspect  KEYS[3] leases  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] landing  KEYS[9] consumers  KEYS[10] seen  KEYS[11] paused  KEYS[12] control
-- KEYS[13] list-front
-- ARGV[1] id of the message  ARGV[2] now in ms or ''  ARGV[3] 'cancel', or the time as in list_place
-- ARGV[4] '1': a call whose answer was lost is repeated  ARGV[5] where to go on, from 0
-- ARGV[6] most elements to look at
-- Returns 1 if done, 0 if it is not there, or {where to go on}.
-- @include clock
-- @include moves
-- @include arrive
-- @include expire
-- @include elements
-- @include place_element
-- @include due
-- @include place
local id, now, first_due, at = ARGV[1], clock(ARGV[2]), next_due(), tonumber(ARGV[5])
put_back_landed()

-- The fields of the message if it is the element, which is taken out then.
local function taken(list, element)
  if not string.find(element, id, 1, true) then return nil end
  local fields, own = decode(element)
  local state, rest = state_of(own, fields)
  if state.id ~= id or redis.call('LREM', list, 1, element) == 0 then return nil end
  return with_state(state, rest)
end

local fields, ended = nil, true
if at == 0 and redis.call('HEXISTS', KEYS[7], id) == 1 then
  fields = cmsgpack.unpack(redis.call('HGET', KEYS[7], id))
  redis.call('ZREM', KEYS[6], id)
  redis.call('HDEL', KEYS[7], id)
end
for _, list in ipairs(fields and {} or { KEYS[2], KEYS[13], KEYS[1] }) do
  local elements = redis.call('LRANGE', list, at, at + ARGV[6] - 1)
  ended = ended and #elements < tonumber(ARGV[6])
  for _, element in ipairs(elements) do
    fields = fields or taken(list, element)
  end
end
if fields and ARGV[3] ~= 'cancel' then
  redis.call('HSET', KEYS[7], id, cmsgpack.pack(fields))
  redis.call('ZADD', KEYS[6], due_time(ARGV[3], now) or now, id)
  promote(now, 1)
  if next_due() and (not first_due or next_due() < first_due) then nudge() end
elseif fields then
  redis.pcall('HINCRBY', KEYS[5], 'cancelled', 1)
  redis.pcall('HSET', KEYS[5], 'last_cancelled', id)
end
if fields then return 1 end
if not ended then return { at + ARGV[6] } end
return ARGV[4] == '1' and redis.call('HGET', KEYS[5], 'last_cancelled') == id and 1 or 0
