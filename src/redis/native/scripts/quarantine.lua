#!lua
-- Adds a record of an unreadable entry to the quarantine of its server, and drops the oldest records above the limits. The
-- new record itself stays.
--
-- KEYS[1]: the stream of records.
-- ARGV[1]: the channel in whose list the entry was.
-- ARGV[2]: the reason why it is unreadable.
-- ARGV[3]: the entry.
-- ARGV[4]: the most records to keep.
-- ARGV[5]: the most bytes of all records together.
-- ARGV[6]: how long a record is kept, in ms.
-- Returns: nothing.

local stream = KEYS[1]
local count, bytes, lives = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- If the command is not permitted, the records count as large.
local function used(length)
    return tonumber(redis.pcall('MEMORY', 'USAGE', stream, 'SAMPLES', 0)) or length * bytes / 16
end

redis.call('XADD', stream, '*', 'channel', ARGV[1], 'reason', ARGV[2], 'entry', ARGV[3])
redis.call('XTRIM', stream, 'MINID', string.format('%.0f', now - lives))
redis.call('XTRIM', stream, 'MAXLEN', count)
redis.call('PEXPIRE', stream, lives)
local length = redis.call('XLEN', stream)
while length > 1 and used(length) > bytes do
    length = length - 1
    redis.call('XTRIM', stream, 'MAXLEN', length)
end
