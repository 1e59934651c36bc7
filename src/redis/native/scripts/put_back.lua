#!lua flags=allow-oom
-- Puts popped entries that no caller received back at the head of their channel, without regard to its capacity.
--
-- KEYS[1]: the channel's list.
-- ARGV[1]: how much longer than its last entry a list lives, in ms.
-- ARGV[2...]: the entries with their stamps, in the order in which they were popped.
-- Returns: how many entries had expired and were dropped.

local list = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local expired, latest = 0, 0

for n = #ARGV, 2, -1 do
    local expires = struct.unpack('>I8', ARGV[n])
    if expires > now then
        redis.call('LPUSH', list, ARGV[n])
        latest = math.max(latest, expires)
    else
        expired = expired + 1
    end
end

local lives = latest - now + tonumber(ARGV[1])
if latest > 0 and redis.call('PTTL', list) < lives then
    redis.call('PEXPIRE', list, string.format('%.0f', lives))
end
return expired
