#!lua flags=allow-oom
-- Applies the capacities of channels to entries that earlier commands of the same transaction have appended: removes the
-- entries above the capacity of a channel.
--
-- It does for large entries what push.lua does for small ones. Lua hashes every argument byte by byte, which takes most of
-- the time if entries are large.
--
-- The server has checked its memory before the transaction. The entries have been appended, so this script has to run.
--
-- KEYS: for each channel its list.
-- ARGV[1]: how long the entries live, in ms.
-- ARGV[2]: their stamp, which is when they expire by the sender's estimate of the clock, in ms.
-- ARGV[3]: how far the estimate may be off, in ms. If it is further off, the stamps are replaced.
-- ARGV[4]: how long a list lives after this, in ms.
-- ARGV[5...]: for each channel its capacity, and the number of appended entries.
-- Returns: for each channel how many of its entries stay, from the first on (-1: its key holds no list); last, how many
-- expired entries were dropped to make room.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lifetime = tonumber(ARGV[1])
local expired = 0
local results = {}

local stamp
if math.abs(now + lifetime - tonumber(ARGV[2])) > tonumber(ARGV[3]) then
    stamp = struct.pack('>I8', now + lifetime)
end

-- Drops expired entries among the first `length` until `wanted` more fit. Returns how many of these are left.
local function make_room(list, length, wanted, capacity)
    while length > 0 and length + wanted > capacity do
        local stamped = string.sub(redis.call('LINDEX', list, 0), 1, 8)
        if #stamped < 8 or struct.unpack('>I8', stamped) > now then
            break
        end
        redis.call('LPOP', list)
        length = length - 1
        expired = expired + 1
    end
    return length
end

-- An empty entry keeps the list from becoming empty: while the slot of a cluster is being migrated, a command on a
-- missing key fails.
local function stamp_anew(list, count)
    redis.call('LPUSH', list, '')
    local entries = redis.call('RPOP', list, count)
    local last = #entries
    for n = 1, last do
        redis.call('RPUSH', list, stamp .. string.sub(entries[last + 1 - n], 9))
    end
    redis.call('LPOP', list)
end

for i, list in ipairs(KEYS) do
    local capacity, entries = tonumber(ARGV[2 * i + 3]), tonumber(ARGV[2 * i + 4])
    local accepted = -1
    local length = redis.pcall('LLEN', list)
    if type(length) == 'number' then
        length = make_room(list, length - entries, entries, capacity)
        accepted = math.max(0, math.min(entries, capacity - length))
        if accepted < entries then
            redis.call('RPOP', list, entries - accepted)
        end
        if accepted > 0 then
            if stamp then
                stamp_anew(list, accepted)
            end
            if length == 0 then
                redis.call('PEXPIRE', list, ARGV[4])
            else
                redis.call('PEXPIRE', list, ARGV[4], 'GT')
            end
        end
    elseif not string.find(length.err, 'WRONGTYPE', 1, true) then
        return length
    end
    results[#results + 1] = accepted
end

results[#results + 1] = expired
return results
