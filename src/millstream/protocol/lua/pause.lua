-- Pause a queue: from now on no consumer gets a message, those that sleep in a read included.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect  KEYS[4] paused  KEYS[5] control
-- ARGV[1] group
-- Returns 'OK', or 'NONE' when there is no such subscription. Safe to repeat: where a group stood before the first pause is kept.
-- @include group
-- @include tell
-- Whoever makes the group of a log has to know where it begins.
if lane_name(KEYS[1]) == 'log' and not has_group(KEYS[1], ARGV[1]) then return 'NONE' end
for i = 1, 3 do
  local lane, group = KEYS[i], find_group(KEYS[i], ARGV[1])
  local stood = group and group['last-delivered-id'] or '0-0'
  if stood ~= NOWHERE then
    redis.call('HSET', KEYS[4], lane_name(lane), stood)
    local read = lane_name(lane) == 'log' and group['entries-read']
    if read then redis.call('HSET', KEYS[4], 'read', read) end
    if group then
      redis.call('XGROUP', 'SETID', lane, ARGV[1], NOWHERE)
    else
      redis.call('XGROUP', 'CREATE', lane, ARGV[1], NOWHERE, 'MKSTREAM')
    end
  end
end
tell(KEYS[5], 'op', 'pause')
return 'OK'
