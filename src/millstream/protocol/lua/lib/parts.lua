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

-- Returns the answer of a transaction that cannot be committed, or nil. To make room in a queue that drops
-- its oldest messages is the only thing here that changes anything; such parts come behind the others.
local function problem_of(parts, length_if_full)
  for number, part in ipairs(parts) do
    if part.name == 'writes' then
      local which, why = check_writes(part.keys, part.arguments)
      if which then return { 'refused', which, why } end
    elseif part.name == 'place' and part.arguments[4] ~= '' then
      local length = length_if_full(part.keys, part.arguments)
      if length then return { 'full', number, length } end
    end
  end
end
