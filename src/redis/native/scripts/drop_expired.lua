#!lua flags=allow-oom
-- Removes expired entries from the head of a channel, up to the first entry that has not expired. A reader that takes one
-- entry at a time would otherwise need a round trip for each of them.
--
-- KEYS[1]: the list of the channel.
-- ARGV[1]: the most entries to remove.
-- ARGV[2]: the number of bytes after which no further entry is removed.
-- Returns: how many entries were removed.

local list = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local most, budget = math.min(tonumber(ARGV[1]), redis.call('LLEN', list)), tonumber(ARGV[2])
local expired, bytes = 0, 0

while expired < most and bytes < budget do
    local head = redis.call('LINDEX', list, 0)
    if #head < 8 or struct.unpack('>I8', head) > now then
        break
    end
    redis.call('LPOP', list)
    expired = expired + 1
    bytes = bytes + #head
end
return expired
