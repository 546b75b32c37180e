-- What was answered to a batch that comes again, or nil.
local function answered(producer, number)
  local last = redis.call('GET', producer)
  if not last then return nil end
  local known, answer = string.match(last, '^(%d+) (.*)$')
  -- Numbers only grow, so a smaller one is a late copy that nobody waits for any more.
  return tonumber(known) >= tonumber(number) and cmsgpack.unpack(answer) or nil
end
