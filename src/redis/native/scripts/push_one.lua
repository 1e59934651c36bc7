#!lua
-- Appends one entry to a channel, as push.lua does, with fewer and cheaper calls. A single send needs nothing else.
--
-- KEYS[1]: the list of the channel.
-- ARGV[1]: the sender's estimate of this server's clock, in ms.
-- ARGV[2]: how long the list lives after a send, in ms.
-- ARGV[3]: the capacity of the channel.
-- ARGV[4]: the entry. Its stamp is replaced if the estimate is too far off.
-- Returns: 1 if the entry was appended; 0 if the channel is full; no value if push.lua has to do it, because an expired
-- entry takes up room, or the key holds no list.

-- Each argument costs about 2 thousand instructions, so the tolerance is here: how far the estimate may be off, in ms.
local tolerance = 50
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local off = now - ARGV[1]
local entry = ARGV[4]
if off > tolerance or off < -tolerance then
    entry = struct.pack('>I8', struct.unpack('>I8', entry) + math.floor(off)) .. string.sub(entry, 9)
end
local length = redis.pcall('RPUSH', KEYS[1], entry)
if length == 1 then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
elseif type(length) ~= 'number' then
    return not string.find(length.err, 'WRONGTYPE', 1, true) and length
elseif length <= ARGV[3] + 0 then
    redis.call('PEXPIRE', KEYS[1], ARGV[2], 'GT')
else
    -- No reader has seen the entry, because it is removed within this script.
    redis.call('RPOP', KEYS[1])
    local head = redis.call('LINDEX', KEYS[1], 0)
    if #head < 8 or struct.unpack('>I8', head) > now then
        return 0
    end
    return false
end
return 1
