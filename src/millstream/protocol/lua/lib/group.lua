-- The consumer group of a stream as a table of XINFO's fields, or nil: no stream, no group.
local function find_group(stream, name)
  for _, info in ipairs(redis.pcall('XINFO', 'GROUPS', stream)) do
    local group = {}
    for i = 1, #info, 2 do group[info[i]] = info[i + 1] end
    if group.name == name then return group end
  end
end

-- Where the entries begin that nobody has read yet, as XRANGE takes it.
local function unread_from(group)
  return group and '(' .. group['last-delivered-id'] or '-'
end
