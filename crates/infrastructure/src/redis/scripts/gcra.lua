-- The generic cell rate algorithm over all pods, by Redis's own clock.
-- KEYS[1]: the user's theoretical arrival time in microseconds: when the budget is whole again
-- ARGV: the microseconds that one action costs, the burst, the current time in microseconds ('' for Redis's)
-- Answers the microseconds to wait, 0 when the action is allowed. A limited action changes nothing.
local cost, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local now = tonumber(ARGV[3])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local whole = tonumber(redis.call('GET', KEYS[1])) or now
-- A clock that stepped back, after a failover for one, must not lock anybody out for longer than the window.
whole = math.min(math.max(whole, now), now + cost * burst)
local next_whole = whole + cost
local wait = next_whole - cost * burst - now
if wait > 0 then
  return wait
end
-- Kept a minute longer than it is needed, because expiry goes by another clock than the argument when a time is given.
redis.call('SET', KEYS[1], string.format('%.0f', next_whole), 'PX', math.ceil((next_whole - now) / 1000) + 60000)
return 0
