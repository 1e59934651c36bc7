-- Returns how many messages wait in sorted sets, and since when. No message is transferred, however large.
--
-- KEYS: the sorted sets.
-- ARGV[1]: the time of the oldest message that has not expired.
-- Returns: for each of them how many messages it has from that time on, and the score of the oldest, or nothing.

local oldest = ARGV[1]
local answer = {}
for _, channel in ipairs(KEYS) do
    answer[#answer + 1] = redis.call('ZCOUNT', channel, oldest, '+inf')
    local first = redis.call('ZRANGEBYSCORE', channel, oldest, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    answer[#answer + 1] = first[2] or false
end
return answer
