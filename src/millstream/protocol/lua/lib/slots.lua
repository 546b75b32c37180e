-- Fewer deliveries are in flight: a reader may sleep until there is room for one (see take.lua).
local function tell_of_slots()
  redis.pcall('XADD', KEYS[8], 'MAXLEN', 16, '*', 'free', 'room')
end
