#!lua
-- Adds to counters what a process has counted.
--
-- Times to live are extended and never shortened, because other processes may have set longer ones.
--
-- KEYS: hashes of counters.
-- ARGV: for each hash how many messages were sent, how many were refused, and how long the hash lives after this, in ms.
-- Returns: nothing.

-- A key of another type must not keep the others from being counted.
local function add(stats, field, count)
    if count ~= '0' then
        redis.pcall('HINCRBY', stats, field, count)
    end
end

for n, stats in ipairs(KEYS) do
    add(stats, 'messages_count', ARGV[3 * n - 2])
    add(stats, 'channel_full_count', ARGV[3 * n - 1])
    if redis.pcall('PEXPIRE', stats, ARGV[3 * n], 'NX') == 0 then
        redis.pcall('PEXPIRE', stats, ARGV[3 * n], 'GT')
    end
end
