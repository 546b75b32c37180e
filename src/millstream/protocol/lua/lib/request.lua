-- Where a request is. One that was moved (a worker was stopped, or one that may be repeated has crashed)
-- is looked for in KEYS[2] front and KEYS[3] suspect, among so many of each: few are ever there.
local MOST = 1000
local moved
local has_more = false

local function look()
  moved = {}
  for i = 2, 3 do
    local entries = redis.call('XRANGE', KEYS[i], '-', '+', 'COUNT', MOST)
    has_more = has_more or #entries == MOST
    for _, entry in ipairs(entries) do
      for j = 1, #entry[2], 2 do
        local state = entry[2][j] == 's' and entry[2][j + 1] or ''
        local id = string.match(state, '"id"%s*:%s*"(%d+%-%d+)"')
        local crashed = string.match(state, '"crashes"%s*:%s*[1-9]') ~= nil
        if id then moved[id] = { KEYS[i], entry[1], i == 2 and 'f' or 's', crashed } end
      end
    end
  end
end

-- Returns its lane, its entry there, the prefix of its token, (nil: nobody has it) the ms since it was
-- delivered or its lease was extended, and whether a worker has died with it; nothing if it is not found.
local function locate(id, group)
  local lane, entry, prefix, crashed = KEYS[1], id, '', false
  if #redis.call('XRANGE', lane, id, id) == 0 then
    if not moved then look() end
    if not moved[id] then return nil end
    lane, entry, prefix, crashed = unpack(moved[id])
  end
  -- Without a group an error has no elements.
  local pending = redis.pcall('XPENDING', lane, group, entry, entry, 1)[1]
  return lane, entry, prefix, pending and pending[3], crashed
end
