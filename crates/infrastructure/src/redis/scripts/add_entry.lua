-- Records one connection.
-- KEYS: the user's entries, the connection's route
-- ARGV: the member, since when (milliseconds), the pod, milliseconds to keep both
-- Answers whether the entry was missing.
local added = redis.call('ZADD', KEYS[1], 'NX', ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])
return added
