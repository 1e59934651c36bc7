-- Appends entries to channels, each channel up to its capacity, and counts them.
--
-- KEYS: for each channel its list and the hash of its counters; last, the hash of the counters of all channels.
-- ARGV[1]: how long the entries live, in ms.
-- ARGV[2]: how long the counters of a channel live after the last send, in ms.
-- ARGV[3]: how long the counters of all channels live after the last send, in ms.
-- ARGV[4...]: for each channel its capacity, the number n of its frames, then the n frames.
-- Returns: for each channel how many of its frames were appended, from the first on (-1: its key holds no list); last,
-- how many expired entries were dropped to make room.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lifetime = tonumber(ARGV[1])
local stamp = struct.pack('>I8', now + lifetime)
local expired, sent, refused = 0, 0, 0
local results = {}

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

local function count(stats, field, by, lives)
    redis.call('HINCRBY', stats, field, by)
    redis.call('PEXPIRE', stats, lives)
end

local at = 4
for i = 1, #KEYS - 1, 2 do
    local list, stats = KEYS[i], KEYS[i + 1]
    local capacity, frames = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
    local accepted = -1
    local length = redis.pcall('LLEN', list)
    if type(length) == 'number' then
        if length + frames > capacity then
            length = make_room(list, length, frames, capacity)
        end
        accepted = math.max(0, math.min(frames, capacity - length))
        if accepted > 0 then
            local entries = {}
            for n = 1, accepted do
                entries[n] = stamp .. ARGV[at + 1 + n]
            end
            redis.call('RPUSH', list, unpack(entries))
            if length == 0 then
                redis.call('PEXPIRE', list, lifetime)
            else
                redis.call('PEXPIRE', list, lifetime, 'GT')
            end
            sent = sent + accepted
            count(stats, 'messages_count', accepted, ARGV[2])
        end
        if accepted < frames then
            refused = refused + frames - accepted
            count(stats, 'channel_full_count', frames - accepted, ARGV[2])
        end
    end
    results[#results + 1] = accepted
    at = at + 2 + frames
end

local totals = KEYS[#KEYS]
if sent > 0 then
    count(totals, 'messages_count', sent, ARGV[3])
end
if refused > 0 then
    count(totals, 'channel_full_count', refused, ARGV[3])
end
results[#results + 1] = expired
return results
