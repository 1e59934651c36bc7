#!lua flags=allow-oom
-- Applies the capacities of channels to entries that earlier commands of the same transaction have appended: removes the
-- entries above the capacity of a channel, and counts.
--
-- It does for large entries what push.lua does for small ones. Lua hashes every argument byte by byte, which takes most of
-- the time if entries are large.
--
-- The server has checked its memory before the transaction. The entries have been appended, so this script has to run.
--
-- KEYS: for each channel its list and the hash of its counters; last the hash of the counters of all channels.
-- ARGV[1]: how long the entries live, in ms.
-- ARGV[2]: their stamp, which is when they expire by the sender's estimate of the clock, in ms.
-- ARGV[3]: how far the estimate may be off, in ms. If it is further off, the stamps are replaced.
-- ARGV[4]: how long a list lives after this, in ms.
-- ARGV[5]: the same for the counters of all channels.
-- ARGV[6...]: for each channel its capacity, how long its counters live, in ms, whether refusals are counted (1) or not (0),
-- because another server may accept the message, and the number of appended entries.
-- Returns: for each channel how many of its entries stay, from the first on (-1: its key holds no list); last, how many
-- expired entries were dropped to make room.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lifetime = tonumber(ARGV[1])
local expired, sent, refused = 0, 0, 0
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

local function stamp_anew(list, count)
    local entries = redis.call('RPOP', list, count)
    local last = #entries
    for n = 1, last do
        redis.call('RPUSH', list, stamp .. string.sub(entries[last + 1 - n], 9))
    end
end

-- The entries have been appended, so a key of another type must not fail the script.
local function count(stats, field, by, lives)
    redis.pcall('HINCRBY', stats, field, by)
    if redis.pcall('PEXPIRE', stats, lives, 'NX') == 0 then
        redis.pcall('PEXPIRE', stats, lives, 'GT')
    end
end

local at = 6
for i = 1, #KEYS - 1, 2 do
    local list, stats = KEYS[i], KEYS[i + 1]
    local capacity, lives, entries = tonumber(ARGV[at]), ARGV[at + 1], tonumber(ARGV[at + 3])
    local accepted = -1
    local length = redis.pcall('LLEN', list)
    if type(length) == 'number' then
        length = make_room(list, length - entries, entries, capacity)
        accepted = math.max(0, math.min(entries, capacity - length))
        if accepted < entries then
            redis.call('RPOP', list, entries - accepted)
            if ARGV[at + 2] == '1' then
                refused = refused + entries - accepted
                count(stats, 'channel_full_count', entries - accepted, lives)
            end
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
            sent = sent + accepted
            count(stats, 'messages_count', accepted, lives)
        end
    elseif not string.find(length.err, 'WRONGTYPE', 1, true) then
        return length
    end
    results[#results + 1] = accepted
    at = at + 4
end

local totals = KEYS[#KEYS]
if sent > 0 then
    count(totals, 'messages_count', sent, ARGV[5])
end
if refused > 0 then
    count(totals, 'channel_full_count', refused, ARGV[5])
end
results[#results + 1] = expired
return results
