-- A token names a delivery: the prefix of its lane and the id of the entry.
local lanes = { f = KEYS[2], s = KEYS[3] }
local function locate(token)
  local lane = lanes[string.sub(token, 1, 1)]
  if lane then return lane, string.sub(token, 2) end
  return KEYS[1], token
end
