#!lua flags=no-writes
-- Tells how many entries wait in lists, and when the first and the last of each were sent and expire. The entries stay
-- here, however large they are.
--
-- KEYS: the lists.
-- ARGV: none.
-- Returns: for each list its length, and the first 17 bytes of its first and of its last entry, or less.

local answer = {}
for _, list in ipairs(KEYS) do
    answer[#answer + 1] = redis.call('LLEN', list)
    for _, place in ipairs({0, -1}) do
        answer[#answer + 1] = string.sub(redis.call('LINDEX', list, place) or '', 1, 17)
    end
end
return answer
