-- Ends a pod's lease unless a successor has it already.
-- KEYS[1]: the lease; ARGV[1]: the incarnation that the pod holds
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
return 0
