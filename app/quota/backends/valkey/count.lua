-- Counts a batch of hits: the algorithms of app/quota/rules/counting.py, step for step.
-- KEYS: the counter of each hit. ARGV[1]: the time in Unix milliseconds, "" for the server's. ARGV[2]: what part of its
-- lifetime is added to that of what is written, 0 to 1, up to five minutes. ARGV[3]: for each hit eight doubles:
-- algorithm, hits, requests, three parameters, 1 if refused hits count, the lifetime of an untouched state in
-- milliseconds (0: it never expires).
-- Returns for each hit three doubles: 1 if allowed, 0 if refused, -1 if the key has something else in it; the requests
-- that remain; the milliseconds to the reset.
local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min
local MAX_COUNT, MAX_RESET, LIMB, SLOT_PARTS = 2 ^ 52, (2 ^ 32 - 1) * 1000, 65536, 32
local MAX_JITTER = 300000

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + floor(tonumber(time[2]) / 1000)
end
local jitter = tonumber(ARGV[2])

-- floor((left * right + extra) / divisor), and what is left over
local function mul_div(left, right, divisor, extra)
  local rest = left % divisor
  local upper = rest * floor(right / LIMB)
  local lower = upper % divisor * LIMB + rest * (right % LIMB) + extra
  local quotient = floor(lower / divisor)
  return floor(left / divisor) * right + floor(upper / divisor) * LIMB + quotient, lower - quotient * divisor
end

local function in_window(state, start, ends, requests, hits, counts_refused)
  local counted = 0
  if state and state[1] >= start and state[1] <= ends then
    start, counted = state[1], state[2]
  end
  local after = min(counted + hits, MAX_COUNT)
  if after <= requests then
    return { start, after }, true, requests - after, ends - now
  end
  return counts_refused and { start, after }, false, 0, ends - now
end

local steps = {}

steps[1] = function(state, hits, requests, length, _, _, counts_refused)
  local start = now - now % length
  return in_window(state, start, start + length, requests, hits, counts_refused)
end

steps[2] = function(state, hits, requests, start, ends, next_ends, counts_refused)
  if now >= ends then
    start, ends = ends, next_ends
  end
  return in_window(state, start, ends, requests, hits, counts_refused)
end

steps[3] = function(state, hits, requests, length)
  local elapsed = now % length
  local start, current, previous = now - elapsed, 0, 0
  if state then
    if state[1] == start then
      current, previous = state[2], state[3]
    elseif state[1] == start - length then
      previous = state[2]
    elseif state[1] == start + length then
      start, current, previous, elapsed = state[1], state[2], state[3], 0
    end
  end
  local used = current + mul_div(length - elapsed, previous, length, length - 1)
  if used + hits <= requests then
    return { start, current + hits, previous }, true, requests - used - hits, length - elapsed
  end
  return nil, false, 0, length - elapsed
end

steps[4] = function(state, hits, requests, length)
  local entries, time, used = {}, now, 0
  state = state or {}
  if #state > 0 and state[#state - 1] > now then
    if state[#state - 1] <= now + length then time = state[#state - 1] else state = {} end
  end
  for place = 1, #state, 2 do
    if state[place] > time - length then
      entries[#entries + 1], entries[#entries + 2] = state[place], state[place + 1]
      used = used + state[place + 1]
    end
  end
  local allowed = used + hits <= requests
  if allowed and hits > 0 then
    if entries[#entries - 1] == time then
      entries[#entries] = entries[#entries] + hits
    else
      entries[#entries + 1], entries[#entries + 2] = time, hits
    end
    used = used + hits
  end
  local reset = #entries > 0 and entries[1] + length - time or length
  return entries, allowed, allowed and requests - used or 0, reset
end

steps[5] = function(state, hits, requests, length, burst)
  if requests == 0 then burst = 0 end
  local filled, tokens, part = now, burst, 0
  if state and state[1] > now and state[1] - now <= length then
    filled, tokens, part = state[1], state[2], state[3]
  elseif state and state[1] <= now and requests > 0 then
    local elapsed = now - state[1]
    local windows, rest = floor(elapsed / length), elapsed % length
    if windows < ceil(burst / requests) then
      local flowed, left = mul_div(rest, requests, length, state[3])
      tokens, part = state[2] + windows * requests + flowed, left
    end
  end
  if tokens >= burst then tokens, part = burst, 0 end
  local allowed, wanted = hits <= tokens, burst
  if allowed then tokens = tokens - hits else wanted = min(hits, burst) end
  local reset = length
  if requests > 0 then reset = mul_div(length, wanted - tokens, requests, requests - 1 - part) end
  return { filled, tokens, part }, allowed, allowed and tokens or 0, min(max(reset, 0), MAX_RESET)
end

steps[6] = function(state, hits, requests, length)
  local part = max(1, floor(length / SLOT_PARTS))
  local slots, used, given_back = {}, 0, max(0, -hits)
  local last = ceil((now + length) / part) * part
  local function append(ends, taken)
    if slots[#slots - 1] == ends then
      slots[#slots] = slots[#slots] + taken
    else
      slots[#slots + 1], slots[#slots + 2] = ends, taken
    end
  end
  state = state or {}
  for place = 1, #state, 2 do
    local ends, taken = state[place], state[place + 1]
    if ends > now then
      local back = min(taken, given_back)
      given_back = given_back - back
      if taken > back then
        used = used + taken - back
        append(min(ends, last), taken - back)
      end
    end
  end
  local allowed = hits <= 0 or used + hits <= requests
  if allowed and hits > 0 then
    used = used + hits
    append(last, hits)
  end
  local reset = #slots > 0 and slots[1] - now or length
  return slots, allowed, allowed and max(0, requests - used) or 0, reset
end

steps[7] = function(state, hits, requests)
  local counted = state and state[1] or 0
  if counted + hits <= requests then
    return { counted + hits }, true, requests - counted - hits, MAX_RESET
  end
  return nil, false, 0, MAX_RESET
end

-- How many numbers the state of each algorithm has; 0: any number of pairs.
local sizes = { 2, 2, 3, 0, 3, 0, 1 }

-- The state that `value` has, nil if it is none of the algorithm.
local function read(value, algorithm)
  local read_whole, state = pcall(function() return { cmsgpack.unpack(value) } end)
  if not read_whole then return nil end
  for place = 1, #state do
    local number = state[place]
    if type(number) ~= 'number' or number < 0 or number ~= floor(number) or number > MAX_COUNT then return nil end
  end
  local size = sizes[algorithm]
  if size > 0 and #state ~= size or size == 0 and #state % 2 ~= 0 then return nil end
  return state
end

local results = {}
for place = 1, #KEYS do
  local algorithm, hits, requests, first, second, third, counts_refused, lifetime =
    struct.unpack('>dddddddd', ARGV[3], place * 64 - 63)
  local value = redis.pcall('GET', KEYS[place])
  local state
  if type(value) == 'table' and value.err and string.sub(value.err, 1, 9) ~= 'WRONGTYPE' then return value end
  local usable = type(value) ~= 'table'
  if usable and value then
    state = read(value, algorithm)
    usable = state ~= nil
  end
  if usable then
    local after, allowed, remaining, reset =
      steps[algorithm](state, hits, requests, first, second, third, counts_refused == 1)
    if hits ~= 0 and after and (allowed or counts_refused == 1) then
      if #after == 0 then
        redis.call('DEL', KEYS[place])
      elseif lifetime > 0 then
        redis.call('SET', KEYS[place], cmsgpack.pack(unpack(after)), 'PX',
          lifetime + floor(min(lifetime * jitter, MAX_JITTER)))
      else
        redis.call('SET', KEYS[place], cmsgpack.pack(unpack(after)))
      end
    end
    results[place] = struct.pack('>ddd', allowed and 1 or 0, remaining, reset)
  else
    results[place] = struct.pack('>ddd', -1, 0, 0)
  end
end
return table.concat(results)
