-- Look for a message that has been moved, some entries of a lane a call.
-- KEYS[1] lane
-- ARGV[1] id of the message  ARGV[2] where to start (as in XRANGE)  ARGV[3] most entries to look at
-- Returns the id of its entry or '', and where to go on or '' at the end.
local entries = redis.call('XRANGE', KEYS[1], ARGV[2], '+', 'COUNT', ARGV[3])
for _, entry in ipairs(entries) do
  local fields, text = entry[2], nil
  -- We write it as the last field; other producers need not.
  for i = #fields - 1, 1, -2 do
    if fields[i] == 's' then
      text = fields[i + 1]
      break
    end
  end
  -- Cheaper than reading every state: only one that names the id is looked at.
  if text and string.find(text, ARGV[1], 1, true) then
    local ok, state = pcall(cjson.decode, text)
    if ok and type(state) == 'table' and state.id == ARGV[1] then return { entry[1], '' } end
  end
end
if #entries < tonumber(ARGV[3]) then return { '', '' } end
return { '', '(' .. entries[#entries][1] }
