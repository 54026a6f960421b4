-- KEYS as above. ARGV: node, fence, lifetime in s, prefix of the audio, call, begun, record.
local fence = tonumber(redis.call('HGET', KEYS[1], 'fence') or '-1')
local mine = tonumber(ARGV[2])
if fence > mine or (fence == mine and redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1]) then return 'lost' end
for _, track in ipairs(redis.call('HKEYS', KEYS[3])) do redis.call('DEL', ARGV[4] .. track) end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'fence', ARGV[2], 'state', 'open', 'record', ARGV[7])
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('SADD', KEYS[4], ARGV[5]); redis.call('ZADD', KEYS[5], ARGV[6], ARGV[5])
return 'ok'
