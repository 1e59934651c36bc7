#!lua flags=allow-oom
-- Marks the records of entries that are about to be deleted, so that no call restores them any more.
--
-- KEYS[1]: the sorted set of the records that have been restored to a channel or deleted; see restore.lua.
-- ARGV[1]: how long the mark of a record is stored, in ms.
-- ARGV[2...]: the ids of the records.
-- Returns: for each record 1 if its entry is marked as deleted, 0 if it has been restored before.

local restored, remembered = KEYS[1], ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answer = {}

for n = 2, #ARGV do
    local has_been_restored = redis.call('ZSCORE', restored, ARGV[n])
    if not has_been_restored then
        redis.call('ZADD', restored, now, 'deleted ' .. ARGV[n])
    end
    answer[n - 1] = has_been_restored and 0 or 1
end
redis.call('PEXPIRE', restored, remembered)
-- Last, because a command on a missing key fails while the slot of a cluster is being migrated.
redis.call('ZREMRANGEBYSCORE', restored, '-inf', now - remembered)
return answer
