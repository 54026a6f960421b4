local now = redis.call('TIME'); now = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('SET', ARGV[4] .. 'node:' .. ARGV[1], ARGV[2], 'PX', ARGV[3])
redis.call('SET', ARGV[4] .. 'secret', ARGV[5], 'NX')
redis.call('SET', ARGV[4] .. 'epoch', ARGV[6], 'NX')
local answer = {now, redis.call('GET', ARGV[4] .. 'epoch'), redis.call('GET', ARGV[4] .. 'secret')}
local all = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #all, 2 do
  local about = redis.pcall('GET', ARGV[4] .. 'node:' .. all[i])
  if type(about) ~= 'string' then about = '' end -- none, or it is none of ours
  table.insert(answer, all[i]); table.insert(answer, tonumber(all[i + 1])); table.insert(answer, about)
end
return answer
