-- KEYS: call, events, tracks, owned, calls. ARGV: node, fence, lifetime in s, prefix of the audio, then operations.
local fence = tonumber(redis.call('HGET', KEYS[1], 'fence') or '-1')
local mine = tonumber(ARGV[2])
if fence > mine or (fence == mine and redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1]) then return 'lost' end
if fence < mine then return 'unknown' end
local touched = {KEYS[1], KEYS[2], KEYS[3]}
local i = 5
while i <= #ARGV do
  local what = ARGV[i]
  if what == 'event' then
    local done = redis.pcall('XADD', KEYS[2], ARGV[i + 1] .. '-0', 'e', ARGV[i + 2])
    if type(done) == 'table' and done.err and not string.find(done.err, 'equal or smaller') then return done end
    i = i + 3
  elseif what == 'forget' then
    redis.call('XDEL', KEYS[2], ARGV[i + 1] .. '-0'); i = i + 2
  elseif what == 'field' then
    redis.call('HSET', KEYS[1], ARGV[i + 1], ARGV[i + 2]); i = i + 3
  elseif what == 'track' then
    redis.call('HSET', KEYS[3], ARGV[i + 1], ARGV[i + 2]); i = i + 3
  elseif what == 'audio' then
    local key = ARGV[4] .. ARGV[i + 1]
    local done = redis.pcall('XADD', key, ARGV[i + 2] .. '-0', 'a', ARGV[i + 3])
    if type(done) == 'table' and done.err and not string.find(done.err, 'equal or smaller') then return done end
    table.insert(touched, key); i = i + 4
  elseif what == 'trim' then
    redis.call('XTRIM', ARGV[4] .. ARGV[i + 1], 'MINID', ARGV[i + 2] .. '-0'); i = i + 3
  elseif what == 'end' then
    for _, track in ipairs(redis.call('HKEYS', KEYS[3])) do redis.call('DEL', ARGV[4] .. track) end
    redis.call('DEL', KEYS[3]); redis.call('SREM', KEYS[4], ARGV[i + 1]); i = i + 2
  else
    return redis.error_reply('unknown operation')
  end
end
for _, key in ipairs(touched) do redis.call('EXPIRE', key, ARGV[3]) end
return 'ok'
