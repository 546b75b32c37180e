-- Resume a paused queue: readers go on where they stood, and those that sleep look again.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect  KEYS[4] paused  KEYS[5] control  KEYS[6] wake
-- KEYS[7] consumers
-- ARGV[1] group  ARGV[2] most sleeping readers to wake
-- Returns 'OK'. Safe to repeat: a queue that is not paused stays as it is.
-- @include group
-- @include tell
local stood = {}
local read = redis.call('HGET', KEYS[4], 'read')
for i = 1, 3 do stood[i] = redis.call('HGET', KEYS[4], lane_name(KEYS[i])) end
-- First, since it frees memory: a full server refuses a script only at its first write, and
-- nothing but a queue that goes on will empty it.
redis.call('DEL', KEYS[4])
local moved = false
for i = 1, 3 do
  local group = find_group(KEYS[i], ARGV[1])
  if group and group['last-delivered-id'] == NOWHERE then
    move_group(KEYS[i], ARGV[1], stood[i] or '0-0', i == 1 and read)
    moved = true
  end
end
if not moved then return 'OK' end
-- A read that sleeps does not notice that its group has moved. Each entry wakes one reader.
if redis.call('EXISTS', KEYS[6]) == 1 then
  local readers = math.min(redis.call('HLEN', KEYS[7]), tonumber(ARGV[2]))
  for _ = 1, readers do
    redis.pcall('XADD', KEYS[6], 'MAXLEN', ARGV[2], '*', 'resumed', 1)
  end
end
tell(KEYS[5], 'op', 'resume')
return 'OK'
