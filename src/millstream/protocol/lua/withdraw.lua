-- Give up requests: their callers wait no more. What nobody has begun with is deleted.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect  KEYS[4] counters  KEYS[5] control
-- ARGV[1] group  ARGV[2..] id, and how, in turn: 'stop': a handler that runs is to be stopped, too;
-- 'leave': it may go on; 'expire': it may, and what waits has expired
-- Returns for each: ms since its delivery, or since its lease was last extended; -1: it waited; -2: it
-- is not there (it has ended).
-- @include request
-- @include tell
local found, cancelled, expired, tokens = {}, 0, 0, {}
for i = 2, #ARGV, 2 do
  local id, how = ARGV[i], ARGV[i + 1]
  local lane, entry, prefix, idle = locate(id, ARGV[1])
  found[#found + 1] = idle or lane and -1 or -2
  if lane and (not idle or how == 'stop') then
    if idle then
      -- It has no owner any more: its worker's acknowledgement is refused.
      redis.call('XACK', lane, ARGV[1], entry)
      tokens[#tokens + 1] = prefix .. entry
    end
    redis.call('XDEL', lane, entry)
    if how == 'expire' then expired = expired + 1 else cancelled = cancelled + 1 end
  end
end
-- All of them at once: what is told is kept for some hundred entries only.
if #tokens > 0 then tell(KEYS[5], 'op', 'withdrawn', 'tokens', table.concat(tokens, ' ')) end
if cancelled > 0 then redis.pcall('HINCRBY', KEYS[4], 'cancelled', cancelled) end
if expired > 0 then
  redis.pcall('HINCRBY', KEYS[4], 'dropped', expired)
  redis.pcall('HINCRBY', KEYS[4], 'expired', expired)
end
return found
