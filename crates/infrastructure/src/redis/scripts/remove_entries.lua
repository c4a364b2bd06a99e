-- Forgets connections of one user.
-- KEYS: the user's entries, then the routes of the members
-- ARGV: the members
for index, member in ipairs(ARGV) do
  redis.call('ZREM', KEYS[1], member)
  redis.call('DEL', KEYS[index + 1])
end
return 0
