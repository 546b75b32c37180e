-- Ask every worker that serves an endpoint: they hear of it where they hear of pauses. A repeated call is
-- told twice; a worker knows it by its address, and answers it once.
-- KEYS[1] members  KEYS[2] control
-- ARGV[1] now in ms or ''  ARGV[2] ms until the deadline  ARGV[3] body  ARGV[4] headers or ''
-- ARGV[5] address of the replies
-- Returns the id of the call, then the members; or nothing: nobody serves the endpoint.
-- @include clock
-- @include tell
local now = clock(ARGV[1])
-- Who has shown no sign of life for too long may stand there still.
local members = redis.call('ZRANGEBYSCORE', KEYS[1], string.format('(%.0f', now), '+inf')
if #members == 0 then return members end
local deadline = string.format('%.0f', after(now, tonumber(ARGV[2])))
local call = { 'op', 'call', 'b', ARGV[3], 'x', deadline, 'r', ARGV[5] }
if ARGV[4] ~= '' then
  call[9], call[10] = 'h', ARGV[4]
end
local id = tell(KEYS[2], unpack(call))
-- Without memory nobody has been told.
if type(id) == 'table' then return id end
table.insert(members, 1, id)
return members
