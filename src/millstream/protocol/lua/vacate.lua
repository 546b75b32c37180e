-- Delete the keys of a partition that is no longer one, unless it holds messages.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect  KEYS[4] dead  KEYS[5] due  KEYS[6] priority
-- KEYS[7] lines  KEYS[8] kept  KEYS[9..] its other keys
-- ARGV: none
-- Returns how many messages it holds; 0: it is gone.
local held = 0
for i = 1, 8 do
  held = held + redis.call((i < 5 or i == 8) and 'XLEN' or 'ZCARD', KEYS[i])
end
if held == 0 then redis.call('UNLINK', unpack(KEYS)) end
return held
