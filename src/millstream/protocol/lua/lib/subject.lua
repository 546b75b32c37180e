-- A filter of subjects; it says what millstream/subject.py says. Returns what tells whether a
-- subject passes; one that is missing (nil or false) never does.
-- Each sign for a token ends at a dot, so there is one way only to share out a text among them.
local SIGNS = { ['.'] = '%.', ['*'] = '[^.]*', ['>'] = '.*' }
local function subject_filter(filter)
  local pattern = string.gsub(filter, '%W', function(sign) return SIGNS[sign] or '%' .. sign end)
  pattern = '^' .. pattern .. '$'
  return function(subject) return subject and string.find(subject, pattern) ~= nil or false end
end

-- The subject of an entry, by its fields; nil when it has none.
local function subject_of(fields)
  for i = 1, #fields, 2 do
    if fields[i] == 't' then return fields[i + 1] end
  end
end
