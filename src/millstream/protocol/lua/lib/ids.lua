-- Ids of entries. As numbers they are too long for Lua.
local LAST = '18446744073709551615-18446744073709551615'

-- A text that compares as the id does.
local function sortable(id)
  local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
  return string.rep('0', 20 - #ms) .. ms .. string.rep('0', 20 - #seq) .. seq
end

-- The id of the first entry of a stream from a place on, as XRANGE takes it; LAST: there is none.
local function first_id(stream, from)
  local entry = redis.call('XRANGE', stream, from, '+', 'COUNT', 1)[1]
  return entry and entry[1] or LAST
end
