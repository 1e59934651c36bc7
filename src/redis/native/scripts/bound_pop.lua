#!lua flags=allow-oom
-- Bounds the bytes that the next LMPOP of the same transaction takes from a channel.
--
-- The LMPOP pops from the gate if that exists, and else from the list. If the whole list is small, the script creates no
-- gate, because entries that do not pass through Lua cost a fraction. Otherwise it pops entries itself, one after the other
-- until they have enough bytes, and adds an element to the gate, which the LMPOP pops instead.
--
-- In a cluster there is no gate and no LMPOP, and the script pops all entries itself. It touches no list that it has emptied:
-- while the slot is being migrated, a command on a missing key fails.
--
-- KEYS[1]: the list of the channel.
-- KEYS[2], outside of a cluster: the gate, a key that exists only within the transaction.
-- ARGV[1]: the most entries to take.
-- ARGV[2]: the most bytes of a list that counts as small.
-- ARGV[3]: the number of bytes after which no further entry is taken.
-- Returns: the list and the entries taken from it; nil if there are none, or if they are left to the LMPOP.

local list, gate = KEYS[1], KEYS[2]
local count, small, budget = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

-- The memory of the whole list. It is exact if all nodes are sampled, as 0 requests, and else an estimate. If the command is
-- not permitted, the list counts as large.
local function usage(samples)
    return tonumber(redis.pcall('MEMORY', 'USAGE', list, 'SAMPLES', samples)) or math.huge
end

local length = redis.call('LLEN', list)
-- Sampling every node of a very long list would take too long.
if length == 0 or (length <= 1024 or usage(8) <= 2 * small) and usage(0) <= small then
    return length > 0 and not gate and { list, redis.call('LPOP', list, count) }
end

if gate then
    redis.call('LPUSH', gate, '')
end
local taken, bytes = {}, 0
while #taken < math.min(count, length) and bytes < budget do
    local entry = redis.call('LPOP', list)
    taken[#taken + 1] = entry
    bytes = bytes + #entry
end
return { list, taken }
