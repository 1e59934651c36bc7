-- Adds messages to channels of channels_redis, each channel up to its capacity.
--
-- Messages are scored by the time of this server, and behind every message that is there already: equal scores would be
-- read in the order of their bytes. A score that another sender's clock put more than a second ahead is ignored.
--
-- A server without memory refuses only the first write of a script. So messages are added before expired
-- ones are removed.
--
-- KEYS: the sorted set of each channel.
-- ARGV[1]: how long messages live, in ms.
-- ARGV[2...]: for each channel its capacity, the number n of its messages, then the n messages.
-- Returns: for each channel how many of its messages were added, from the first on (-1: its key holds no sorted set);
-- last, how many expired messages were removed.

local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local lifetime = tonumber(ARGV[1])
local oldest = string.format('%.6f', now - lifetime / 1000)
local results, sets, expired, at = {}, {}, 0, 2

local function next_score(key)
    local near = redis.call('ZREVRANGEBYSCORE', key, string.format('%.6f', now + 1), string.format('%.6f', now),
        'WITHSCORES', 'LIMIT', 0, 1)
    if near[2] then
        return tonumber(near[2]) + 0.000001
    end
    return now
end

for i, key in ipairs(KEYS) do
    local capacity, count = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
    local accepted = -1
    local waiting = redis.pcall('ZCOUNT', key, '(' .. oldest, '+inf')
    if type(waiting) == 'number' then
        sets[#sets + 1] = key
        accepted = math.max(0, math.min(count, capacity - waiting))
        if accepted > 0 then
            local score, added = next_score(key), {}
            for n = 1, accepted do
                added[2 * n - 1] = string.format('%.6f', score + (n - 1) * 0.000001)
                added[2 * n] = ARGV[at + 1 + n]
            end
            redis.call('ZADD', key, unpack(added))
            if redis.call('PTTL', key) < lifetime then
                redis.call('PEXPIRE', key, ARGV[1])
            end
        end
    elseif not string.find(waiting.err, 'WRONGTYPE', 1, true) then
        return waiting
    end
    results[i] = accepted
    at = at + 2 + count
end

for _, key in ipairs(sets) do
    expired = expired + redis.call('ZREMRANGEBYSCORE', key, '-inf', oldest)
end
results[#results + 1] = expired
return results
