-- Reading inside of a script. Include moves and group before it.
local function fill(taken, name, lane, count)
  if count < 1 then return 0 end
  local reply = redis.pcall('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', count, 'STREAMS', lane, '>')
  taken.problem = taken.problem or failed(reply)
  if not reply or taken.problem then return 0 end
  for _, entry in ipairs(reply[1][2]) do taken[name][#taken[name] + 1] = entry end
  return #reply[1][2]
end

-- One that has not been seen yet is enough: while somebody sleeps, it is seen at once.
local function wake_another(slots)
  if unread(KEYS[8]) == 1 then return end
  redis.pcall('XADD', KEYS[8], 'MAXLEN', 16, '*', 'free', slots)
end
