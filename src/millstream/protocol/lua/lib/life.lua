-- Before 7.2 a read that finds nothing does not count as a sign of life, so a consumer that waits
-- for messages looked dead. Reading its own entries behind the last possible one does count.
local function show_life()
  redis.pcall('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', 1, 'STREAMS', KEYS[1],
    '18446744073709551615-0')
end
