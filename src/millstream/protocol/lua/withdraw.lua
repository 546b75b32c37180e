-- Give up requests: their callers wait no more. What nobody has begun with is deleted.
-- KEYS[1] ready  KEYS[2] counters  KEYS[3] control
-- ARGV[1] group  ARGV[2] '1': what runs is to be stopped, too  ARGV[3..] ids
-- Returns for each: ms since its delivery, or since its lease was last extended; -1: it waited; -2: it
-- is not there (it has ended, or was moved).
-- @include tell
local found, dropped = {}, 0
for i = 3, #ARGV do
  local id = ARGV[i]
  -- Without a group an error has no elements.
  local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], id, id, 1)[1]
  if not pending then
    local deleted = redis.call('XDEL', KEYS[1], id)
    dropped = dropped + deleted
    found[#found + 1] = deleted == 1 and -1 or -2
  else
    found[#found + 1] = pending[3]
    if ARGV[2] == '1' then
      -- It has no owner any more: its worker's acknowledgement is refused.
      redis.call('XACK', KEYS[1], ARGV[1], id)
      redis.call('XDEL', KEYS[1], id)
      tell(KEYS[3], 'op', 'cancel', 'id', id, 'token', id)
      dropped = dropped + 1
    end
  end
end
if dropped > 0 then redis.pcall('HINCRBY', KEYS[2], 'cancelled', dropped) end
return found
