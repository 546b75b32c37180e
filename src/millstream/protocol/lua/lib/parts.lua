-- The parts of a transaction: each is a script, or the plain writes, with KEYS and ARGV of its own.
-- ARGV[6] is how many there are; see transact.lua.
local function parts_of(first_key)
  local parts, key, at = {}, first_key, 7 + 3 * ARGV[6]
  for i = 7, 6 + 3 * ARGV[6], 3 do
    local part = { name = ARGV[i], keys = {}, arguments = {} }
    for j = key, key + ARGV[i + 1] - 1 do part.keys[#part.keys + 1] = KEYS[j] end
    for j = at, at + ARGV[i + 2] - 1 do part.arguments[#part.arguments + 1] = ARGV[j] end
    key, at = key + ARGV[i + 1], at + ARGV[i + 2]
    parts[#parts + 1] = part
  end
  return parts
end

-- Returns the answer of a transaction whose part has no room, or nil.
local function full_part(parts, length_if_full, only_look)
  for number, part in ipairs(parts) do
    if part.name == 'place' and part.arguments[4] ~= '' then
      local length = length_if_full(part.keys, part.arguments, only_look)
      if length then return { 'full', number, length } end
    end
  end
end

-- Returns the answer of a transaction that cannot be committed, or nil. To make room in queues that drop
-- their oldest messages is the only thing here that changes anything; it comes when all have been looked at.
local function problem_of(parts, length_if_full)
  for _, part in ipairs(parts) do
    if part.name == 'writes' then
      local which, why = check_writes(part.keys, part.arguments)
      if which then return { 'refused', which, why } end
    end
  end
  return full_part(parts, length_if_full, true) or full_part(parts, length_if_full, false)
end
