#!lua flags=allow-oom
-- Bounds in bytes what an LMPOP behind it in the same transaction takes from a channel.
--
-- The LMPOP looks at the gate first, and at the list only while there is no gate. If the whole list is small the script
-- leaves the gate open, since entries that do not pass through Lua cost a fraction. Otherwise it takes entries itself, one
-- after the other until they have enough bytes, and puts something into the gate for the LMPOP to take instead.
--
-- KEYS[1]: the list of the channel.
-- KEYS[2]: the gate, a key that is there only within the transaction.
-- ARGV[1]: how many entries to take at most.
-- ARGV[2]: up to how many bytes the whole list is small.
-- ARGV[3]: the number of bytes after which no further entry is taken.
-- Returns: the list and the entries taken from it; nothing if they are left to the LMPOP.

local list, gate = KEYS[1], KEYS[2]
local count, small, budget = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

-- The memory of the whole list if it has no more nodes than are sampled, or if 0 stands for all; else an estimate. Where
-- the command is not allowed the list counts as large.
local function usage(samples)
    return tonumber(redis.pcall('MEMORY', 'USAGE', list, 'SAMPLES', samples)) or math.huge
end

local length = redis.call('LLEN', list)
-- Looking at every node of a very long list would take too long.
if length == 0 or (length <= 1024 or usage(8) <= 2 * small) and usage(0) <= small then
    return false
end

redis.call('LPUSH', gate, '')
local taken, bytes = {}, 0
while #taken < count and bytes < budget do
    local entry = redis.call('LPOP', list)
    if not entry then
        break
    end
    taken[#taken + 1] = entry
    bytes = bytes + #entry
end
return { list, taken }
