-- What was answered to a batch that comes again, or nil. A repetition writes, too (see lib/append).
local function answered(producer, number)
  local last = redis.call('GET', producer)
  if not last then return nil end
  local known, answer = string.match(last, '^(%d+) (.*)$')
  -- Numbers only grow, so a smaller one is a late copy that nobody waits for any more.
  if tonumber(known) < tonumber(number) then return nil end
  redis.call('PEXPIRE', producer, ARGV[2])
  return cmsgpack.unpack(answer)
end
