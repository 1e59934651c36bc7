#!lua
-- Restores quarantined entries to the head of their channel without regard to its capacity. It stores the ids of their
-- records, so that repeated calls restore each entry only once.
--
-- KEYS[1]: the channel's list.
-- KEYS[2]: the sorted set of the records that have been restored to this channel, or marked as deleted by mark_deleted.lua, each
--   with the time at which that happened.
-- ARGV[1]: how much longer than its last entry a list lives, in ms.
-- ARGV[2]: how long the id of a restored record is stored, in ms.
-- ARGV[3...]: for each record, oldest first, its id and its entry with the stamp.
-- Returns: for each record 1 if its entry was restored, 0 if it had been restored or deleted before, -1 if its entry has expired.

local list, restored = KEYS[1], KEYS[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answer, latest = {}, 0
-- Fails for a key of another type before anything is written.
redis.call('LLEN', list)

for n = #ARGV - 1, 3, -2 do
    local id, entry = ARGV[n], ARGV[n + 1]
    local expires = struct.unpack('>I8', entry)
    local result
    if redis.call('ZSCORE', restored, id) or redis.call('ZSCORE', restored, 'deleted ' .. id) then
        result = 0
    elseif expires <= now then
        result = -1
    else
        redis.call('ZADD', restored, now, id)
        redis.call('LPUSH', list, entry)
        latest = math.max(latest, expires)
        result = 1
    end
    answer[(n - 1) / 2] = result
end

if latest > 0 then
    redis.call('PEXPIRE', restored, ARGV[2])
    local lives = latest - now + tonumber(ARGV[1])
    if redis.call('PTTL', list) < lives then
        redis.call('PEXPIRE', list, string.format('%.0f', lives))
    end
end
-- Last, because a command on a missing key fails while the slot of a cluster is being migrated.
redis.call('ZREMRANGEBYSCORE', restored, '-inf', now - ARGV[2])
return answer
