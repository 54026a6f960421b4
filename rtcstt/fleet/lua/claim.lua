-- KEYS: call, owned of the old owner, and of the new. ARGV: call, old owner, old fence, new owner, lifetime in s.
if redis.call('EXISTS', KEYS[1]) == 0 then return -1 end
local owner, fence, state = unpack(redis.call('HMGET', KEYS[1], 'owner', 'fence', 'state'))
if owner ~= ARGV[2] or fence ~= ARGV[3] or state ~= 'open' then return -1 end
redis.call('HSET', KEYS[1], 'owner', ARGV[4], 'fence', fence + 1)
redis.call('EXPIRE', KEYS[1], ARGV[5])
redis.call('SREM', KEYS[2], ARGV[1]); redis.call('SADD', KEYS[3], ARGV[1])
return fence + 1
