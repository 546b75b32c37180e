-- Plain acks of a queue: ids in ready, at ARGV[first] to ARGV[last]. An id there has one owner in its life: a
-- message that changes hands gets a new entry. So XACK refuses a late owner by itself, and only a short count
-- asks for a closer look. Returns how many were acknowledged; those that were refused are added to `lost`.
local function ack_in_ready(first, last, lost)
  local settled = 0
  for from = first, last, 1000 do
    local ids = { unpack(ARGV, from, math.min(from + 999, last)) }
    local acked = redis.call('XACK', KEYS[1], ARGV[1], unpack(ids))
    settled = settled + acked
    if acked == #ids then
      redis.call('XDEL', KEYS[1], unpack(ids))
    else
      for _, id in ipairs(ids) do
        if redis.call('XDEL', KEYS[1], id) == 0 then lost[#lost + 1] = id end
      end
    end
  end
  return settled
end
