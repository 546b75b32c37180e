-- The consumer groups of a stream by their names, as tables of XINFO's fields; none without a stream.
local function groups_of(stream, only)
  local groups = {}
  for _, info in ipairs(redis.pcall('XINFO', 'GROUPS', stream)) do
    if not only or info[2] == only then
      local group = {}
      for i = 1, #info, 2 do group[info[i]] = info[i + 1] end
      groups[group.name] = group
    end
  end
  return groups
end

-- One of them, or nil.
local function find_group(stream, name)
  return groups_of(stream, name)[name]
end

-- Whether there is such a group. A log may have a thousand of them, which XINFO would list.
local function has_group(stream, name)
  return not redis.pcall('XPENDING', stream, name).err
end

local function stream_info(stream)
  local info, found = redis.call('XINFO', 'STREAM', stream), {}
  for i = 1, #info, 2 do found[info[i]] = info[i + 1] end
  return found
end

-- While a queue is paused its groups stand behind the last possible entry, so that no read gets
-- anything; a hash keeps where each lane's group stood, by the last word of the lane's key.
local NOWHERE = '18446744073709551615-0'
local function lane_name(lane) return string.match(lane, '[^:]+$') end

-- Where the entries begin that nobody has read yet, as XRANGE takes it. With the hash of a paused
-- queue it is where they will begin; without, it is what readers see.
local function unread_from(group, lane, paused)
  if not group then return '-' end
  local last = group['last-delivered-id']
  if paused and last == NOWHERE then last = redis.call('HGET', paused, lane_name(lane)) or '0-0' end
  return '(' .. last
end

-- Moves a group of a log. From 7.0 on the server counts what a group has not read, but only if it is
-- told how many are behind it; `read`: that number, if known.
local function move_group(lane, name, id, read)
  if read then
    redis.call('XGROUP', 'SETID', lane, name, id, 'ENTRIESREAD', read)
  else
    redis.call('XGROUP', 'SETID', lane, name, id)
  end
end

-- Has the group of a lane go on behind an entry, now or when the queue goes on.
local function stand_at(id, lane, paused)
  if redis.call('EXISTS', paused) == 1 then
    redis.call('HSET', paused, lane_name(lane), id)
    redis.call('HDEL', paused, 'read')
  else
    redis.call('XGROUP', 'SETID', lane, ARGV[1], id)
  end
end

-- Whether a lane has messages that nobody has read yet: 1 or 0. The lane is nearly always empty.
-- Lengths do not tell: somebody may have acknowledged an entry without deleting it.
local function unread(lane)
  if redis.call('XLEN', lane) == 0 then return 0 end
  return #redis.call('XRANGE', lane, unread_from(find_group(lane, ARGV[1])), '+', 'COUNT', 1)
end
