-- Takes the oldest messages of the first channel of channels_redis that has any.
--
-- KEYS: the sorted sets of the channels, in the order in which to look at them.
-- ARGV[1]: how many messages to take at most.
-- ARGV[2]: the number of bytes after which no further message is taken.
-- Returns: the key and a list of messages and scores in turns; nil if there is no message.

local most, budget = 2 * tonumber(ARGV[1]), tonumber(ARGV[2])

for _, key in ipairs(KEYS) do
    local taken, bytes = {}, 0
    while #taken < most and bytes < budget do
        local popped = redis.call('ZPOPMIN', key)
        if #popped == 0 then
            break
        end
        taken[#taken + 1] = popped[1]
        taken[#taken + 1] = popped[2]
        bytes = bytes + #popped[1]
    end
    if #taken > 0 then
        return { key, taken }
    end
end
return false
