-- Keeps a pod's lease, or takes it anew.
-- KEYS[1]: the lease
-- ARGV: the incarnation that the pod holds ('' for none), the one to take when that is not in Redis any more, the lease's milliseconds
-- Answers who held the lease before ('' for nobody).
local holder = redis.call('GET', KEYS[1]) or ''
if holder ~= '' and holder == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
return holder
