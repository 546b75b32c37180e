-- Tell live workers something; returns the id of the entry. It is soon old news: the stream goes away by
-- itself. It holds as much as may be said before a busy worker listens again.
local function tell(control, ...)
  local id = redis.pcall('XADD', control, 'MAXLEN', '~', 1000, '*', ...)
  redis.pcall('PEXPIRE', control, 60000)
  return id
end
