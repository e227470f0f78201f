-- Limits per client: requests by a leaky bucket, connections by counting.

local state = require "navarch.state"
local shared = ngx.shared.navarch_limits

local M = {}

-- The time at which the bucket is empty again is all that must be kept (generic cell rate
-- algorithm). It is moved first and looked at then, so that workers cannot both take the last place.
local function take(key, rate, burst)
  local now = ngx.now()
  local cost = 60 / rate
  local life = cost * (burst + 1)
  local until_empty = shared:get(key)
  local base = until_empty and until_empty > now and until_empty or now
  if base + cost - now > life + 1e-6 then return false end
  shared:set(key, base + cost, life + 1)
  return true
end

-- The status code to answer with, nil if the request is within limits.
function M.exceeded(ctx, limits)
  local address = ngx.var.binary_remote_addr
  if limits.exempt and state.contains(limits.exempt, address) then return nil end
  local client = limits.key .. "\0" .. address
  for number, rate in ipairs(limits.rates or {}) do
    if not take(number .. client, rate, (rate < 60 and rate or rate / 60) * limits.burst_multiplier) then
      return 503
    end
  end
  if limits.connections then
    local key = "c" .. client
    local count = shared:incr(key, 1, 0)
    if count and count > limits.connections then
      shared:incr(key, -1)
      return 503
    end
    ctx.counted = key
  end
  return nil
end

function M.release(ctx)
  if not ctx.counted then return end
  local left = shared:incr(ctx.counted, -1)
  if left and left <= 0 then shared:delete(ctx.counted) end
  ctx.counted = nil
end

return M
