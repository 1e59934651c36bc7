#!lua flags=allow-oom
-- Marks the records of entries that are about to be deleted, so that no call restores them any more.
--
-- KEYS[1]: the set of the records that have been restored to a channel or deleted; see restore.lua.
-- ARGV[1]: how long the mark of a record is stored, in ms.
-- ARGV[2...]: the ids of the records.
-- Returns: for each record 1 if its entry is marked as deleted, 0 if it has been restored before.

local answer = {}
for n = 2, #ARGV do
    local has_been_restored = redis.call('SISMEMBER', KEYS[1], ARGV[n]) == 1
    if not has_been_restored then
        redis.call('SADD', KEYS[1], 'deleted ' .. ARGV[n])
    end
    answer[n - 1] = has_been_restored and 0 or 1
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return answer
