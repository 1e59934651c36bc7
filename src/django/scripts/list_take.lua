-- Takes the oldest messages of the first channel of asgi_redis that has any.
--
-- The keys of messages are in the list, so the caller cannot name them in KEYS. The script reads only keys with the prefix
-- of messages. A key leaves the list only after its message has been read.
--
-- KEYS: the lists of the channels, in the order in which to look at them.
-- ARGV[1]: how many messages to take at most.
-- ARGV[2]: the number of bytes after which no further message is taken.
-- ARGV[3]: the prefix of keys of messages.
-- ARGV[4]: how long a message without an end lives from now on, in ms.
-- Returns: the list, then each message and when it expires in ms since the epoch, and how many keys had no message any more;
-- nil if all lists are empty. The answer may be late, so it holds no remaining times.

local most, budget, prefix, lifetime = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

for _, list in ipairs(KEYS) do
    local taken, missing, count, bytes = {}, 0, 0, 0
    while count < most and bytes < budget do
        local key = redis.call('LINDEX', list, 0)
        if not key then
            break
        end
        local body = string.sub(key, 1, #prefix) == prefix and redis.pcall('GET', key)
        if type(body) == 'table' and not string.find(body.err, 'WRONGTYPE', 1, true) then
            if count == 0 then
                return body
            end
            break
        end
        redis.call('LPOP', list)
        count = count + 1
        if type(body) == 'string' then
            local remaining = redis.call('PTTL', key)
            taken[#taken + 1] = { body, now + (remaining < 0 and lifetime or remaining) }
            redis.call('DEL', key)
            bytes = bytes + #body
        else
            missing = missing + 1
        end
    end
    if count > 0 then
        return { list, taken, missing }
    end
end
return false
