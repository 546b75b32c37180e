-- Tell live workers something. It is soon old news: the stream goes away by itself.
local function tell(control, ...)
  redis.pcall('XADD', control, 'MAXLEN', '~', 100, '*', ...)
  redis.pcall('PEXPIRE', control, 60000)
end
