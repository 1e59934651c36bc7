-- Adds messages to channels of asgi_redis, each channel up to its capacity, and counts them.
--
-- A channel is a list of keys; each key holds one message and expires with it. Keys of expired messages at the head of a
-- full list make room.
--
-- KEYS[1], KEYS[2]: the counters of messages and of refusals on all channels.
-- KEYS[3...]: for each channel its list, its counter of messages, its counter of refusals, then the keys of its messages.
-- ARGV[1]: how long messages live, in ms.
-- ARGV[2], ARGV[3]: how long the counters of a channel, and those of all channels, live after the last change, in s.
-- ARGV[4...]: for each channel its capacity, 1 if a refusal by this server is final and counts, else 0, the number n of
-- its messages, then the n messages.
-- Returns: for each channel how many of its messages were added, from the first on (-1: its key holds no list); last, how
-- many expired ones made room.

local lifetime = tonumber(ARGV[1])
local results, expired, sent, refused = {}, 0, 0, 0
local key, at = 3, 4

-- A server without memory refuses only the first write of a script, and room is made before messages are added. So the first
-- write adds nothing, because the key is new, and is refused exactly if a message would be.
redis.call('SET', KEYS[6], '', 'XX')

local function make_room(list, length, wanted, capacity)
    while length > 0 and length + wanted > capacity and redis.call('EXISTS', redis.call('LINDEX', list, 0)) == 0 do
        redis.call('LPOP', list)
        length = length - 1
        expired = expired + 1
    end
    return length
end

-- A key that holds no counter must not fail messages that are added already.
local function count(counter, by, lives)
    redis.pcall('INCRBY', counter, by)
    redis.pcall('EXPIRE', counter, lives)
end

while key <= #KEYS do
    local list, capacity, counts, wanted = KEYS[key], tonumber(ARGV[at]), ARGV[at + 1] == '1', tonumber(ARGV[at + 2])
    local accepted = -1
    local length = redis.pcall('LLEN', list)
    if type(length) == 'number' then
        length = make_room(list, length, wanted, capacity)
        accepted = math.max(0, math.min(wanted, capacity - length))
        for n = 1, accepted do
            redis.call('SET', KEYS[key + 2 + n], ARGV[at + 2 + n], 'PX', ARGV[1])
            redis.call('RPUSH', list, KEYS[key + 2 + n])
        end
        if accepted > 0 then
            if redis.call('PTTL', list) < lifetime + 1000 then
                redis.call('PEXPIRE', list, string.format('%.0f', lifetime + 1000))
            end
            sent = sent + accepted
            count(KEYS[key + 1], accepted, ARGV[2])
        end
        if counts and accepted < wanted then
            refused = refused + wanted - accepted
            count(KEYS[key + 2], wanted - accepted, ARGV[2])
        end
    elseif not string.find(length.err, 'WRONGTYPE', 1, true) then
        return length
    end
    results[#results + 1] = accepted
    key = key + 3 + wanted
    at = at + 3 + wanted
end

if sent > 0 then
    count(KEYS[1], sent, ARGV[3])
end
if refused > 0 then
    count(KEYS[2], refused, ARGV[3])
end
results[#results + 1] = expired
return results
