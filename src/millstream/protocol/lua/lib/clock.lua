-- The server's clock in ms; a test may pass a time of its own.
local begun, passed = 0, 0
local function clock(given)
  if given ~= '' then return tonumber(given) end
  local time = redis.call('TIME')
  -- A part of the ms is over already.
  passed = tonumber(time[2]) % 1000
  begun = passed > 0 and 1 or 0
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- When a delay is over: never early, not even by the part of a ms that the clock leaves out.
local function after(now, delay)
  return delay > 0 and now + delay + begun or now
end

-- The time until then in us; -1: never.
local function microseconds(now, due)
  return due and math.max(0, (due - now) * 1000 - passed) or -1
end
