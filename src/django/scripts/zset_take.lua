-- Takes the oldest messages of the first channel of channels_redis that has any.
--
-- KEYS: the sorted sets of the channels, in the order in which to look at them.
-- ARGV[1]: how many messages to take at most.
-- Returns: the key and a list of messages and scores in turns; nothing if there is no message.

for _, key in ipairs(KEYS) do
    local taken = redis.call('ZPOPMIN', key, ARGV[1])
    if #taken > 0 then
        return { key, taken }
    end
end
return false
