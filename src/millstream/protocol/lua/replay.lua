-- Read a part of a topic's history: what passes a filter, so that nothing else crosses the wire.
-- KEYS[1] log
-- ARGV[1] where to start (as in XRANGE)  ARGV[2] id of the last entry  ARGV[3] filter
-- ARGV[4] most entries to return  ARGV[5] most entries to look at
-- Returns entries as XRANGE does, and where to go on or '' at the end.
-- @include subject
local passes = subject_filter(ARGV[3])
local start, most, left = ARGV[1], tonumber(ARGV[4]), tonumber(ARGV[5])
local found = {}
while left > 0 and #found < most do
  -- Some at a time: what is looked at here in vain is made in the memory of the script.
  local number = math.min(left, 100)
  local entries = redis.call('XRANGE', KEYS[1], start, ARGV[2], 'COUNT', number)
  for _, entry in ipairs(entries) do
    if passes(subject_of(entry[2])) then found[#found + 1] = entry end
    start = '(' .. entry[1]
    if #found == most then break end
  end
  if #found < most and #entries < number then return { found, '' } end
  left = left - #entries
end
return { found, start }
