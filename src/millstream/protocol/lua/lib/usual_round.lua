-- Nearly every round settles plain acks, if anything, and finds nothing else to see to: nothing due, urgent,
-- handed back or suspect, no producer that waits for room. This is all of it. Include clock and acks before it,
-- and everything else behind its call: to make those functions takes the server three times as long as this.
-- Returns what settle.lua returns, or nil, with nothing done, when there is more to do.
local function usual_round(now)
  local last = 7 + tonumber(ARGV[7])
  if #ARGV > last or ARGV[6] ~= '' or string.sub(KEYS[1], -4) == ':log' then return nil end
  if redis.call('EXISTS', KEYS[9], KEYS[14]) > 0 then return nil end
  if redis.call('XLEN', KEYS[2]) + redis.call('XLEN', KEYS[3]) > 0 then return nil end
  local due = redis.call('ZRANGE', KEYS[6], 0, 0, 'WITHSCORES')[2]
  due = due and tonumber(due)
  if due and due <= now then return nil end
  local lost = {}
  local acked = ack_in_ready(8, last, lost)
  if acked > 0 then redis.pcall('HINCRBY', KEYS[5], 'acked', acked) end
  return { lost, {}, microseconds(now, due), 0, 0, now, {} }
end
