-- Tell what has become of requests that nobody has answered yet.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect  KEYS[4] members
-- ARGV[1] group  ARGV[2..] ids
-- Returns whether anybody serves the endpoint (1 or 0), and for each: ms since its delivery, or since
-- its lease was last extended; -1: it waits; -2: it is not there; -3: it is not known, for too many
-- were moved to look at all of them; -4: it waits again, a worker has died with it.
-- @include request
local found = {}
for i = 2, #ARGV do
  local lane, _, _, idle, crashed = locate(ARGV[i], ARGV[1])
  found[#found + 1] = idle or lane and (crashed and -4 or -1) or has_more and -3 or -2
end
return { redis.call('EXISTS', KEYS[4]), found }
