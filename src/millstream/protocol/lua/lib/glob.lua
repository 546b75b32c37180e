-- A text with `*` in it, each of which stands for any text. Returns what tells whether one fits.
-- Its pieces are looked for from left to right, each once. A pattern with several `.*` would try
-- every way to share out the text among them, and the server would do nothing else meanwhile.
local function glob(text)
  local pieces = {}
  for piece in string.gmatch(text .. '*', '([^*]*)%*') do pieces[#pieces + 1] = piece end
  local head, tail = pieces[1], pieces[#pieces]

  return function(whole)
    if #pieces == 1 then return whole == head end
    local last = #whole - #tail
    if last < #head or string.sub(whole, 1, #head) ~= head or string.sub(whole, last + 1) ~= tail then
      return false
    end
    local at = #head + 1
    for i = 2, #pieces - 1 do
      local _, ends = string.find(whole, pieces[i], at, true)
      if not ends or ends > last then return false end
      at = ends + 1
    end
    return true
  end
end
