-- Appends entries to channels, each channel up to its capacity, and counts them.
--
-- The entries come with the stamp that the sender expects by its estimate of this clock, so that they go into the list
-- as they are. If the estimate is off, the stamps are written anew.
--
-- KEYS: for each channel its list and the hash of its counters; last, the hash of the counters of all channels.
-- ARGV[1]: how long the entries live, in ms.
-- ARGV[2]: when they expire by the sender's estimate, in ms: their stamp.
-- ARGV[3]: how far the estimate may be off, in ms.
-- ARGV[4]: how long the counters of a channel live after the last send, in ms.
-- ARGV[5]: how long the counters of all channels live after the last send, in ms.
-- ARGV[6...]: for each channel its capacity, the number n of its entries, then the n entries.
-- Returns: for each channel how many of its entries were appended, from the first on (-1: its key holds no list); last,
-- how many expired entries were dropped to make room.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lifetime = tonumber(ARGV[1])
local expired, sent, refused = 0, 0, 0
local results = {}

local stamp
if math.abs(now + lifetime - tonumber(ARGV[2])) > tonumber(ARGV[3]) then
    stamp = struct.pack('>I8', now + lifetime)
end

-- Drops expired entries from the head until `wanted` more fit; gives the new length.
local function make_room(list, length, wanted, capacity)
    while length > 0 and length + wanted > capacity do
        local head = redis.call('LINDEX', list, 0)
        if #head < 8 or struct.unpack('>I8', head) > now then
            break
        end
        redis.call('LPOP', list)
        length = length - 1
        expired = expired + 1
    end
    return length
end

local function append(list, first, last)
    if not stamp then
        redis.call('RPUSH', list, unpack(ARGV, first, last))
        return
    end
    local entries = {}
    for n = first, last do
        entries[#entries + 1] = stamp .. string.sub(ARGV[n], 9)
    end
    redis.call('RPUSH', list, unpack(entries))
end

-- A key that holds no counters must not fail messages that are appended already.
local function count(stats, field, by, lives)
    redis.pcall('HINCRBY', stats, field, by)
    redis.pcall('PEXPIRE', stats, lives)
end

local at = 6
for i = 1, #KEYS - 1, 2 do
    local list, stats = KEYS[i], KEYS[i + 1]
    local capacity, entries = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
    local accepted = -1
    local length = redis.pcall('LLEN', list)
    if type(length) == 'number' then
        if length + entries > capacity then
            length = make_room(list, length, entries, capacity)
        end
        accepted = math.max(0, math.min(entries, capacity - length))
        if accepted > 0 then
            append(list, at + 2, at + 1 + accepted)
            if length == 0 then
                redis.call('PEXPIRE', list, lifetime)
            else
                redis.call('PEXPIRE', list, lifetime, 'GT')
            end
            sent = sent + accepted
            count(stats, 'messages_count', accepted, ARGV[4])
        end
        if accepted < entries then
            refused = refused + entries - accepted
            count(stats, 'channel_full_count', entries - accepted, ARGV[4])
        end
    end
    results[#results + 1] = accepted
    at = at + 2 + entries
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
