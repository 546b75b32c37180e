-- Show messages in flight: who has them, and how much of the lease is used up. It touches nothing.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect
-- ARGV[1] group  ARGV[2] most messages of each lane
-- Returns {token, fields, consumer, idle ms} for each, lane by lane, those with the lowest ids of entries.
local found = {}
for i, prefix in ipairs({ '', 'f', 's' }) do
  -- Without a group an error has no elements.
  for _, pending in ipairs(redis.pcall('XPENDING', KEYS[i], ARGV[1], '-', '+', ARGV[2])) do
    local entry = redis.call('XRANGE', KEYS[i], pending[1], pending[1])[1]
    -- A log may have lost what a subscription has in hand.
    local fields = entry and entry[2] or {}
    found[#found + 1] = { prefix .. pending[1], fields, pending[2], pending[3] }
  end
end
return found
