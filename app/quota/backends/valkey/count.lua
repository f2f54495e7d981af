-- Counts a batch of hits: the algorithms of app/quota/rules/counting.py, step for step.
-- KEYS: the counters, each once. ARGV[1]: the time in Unix milliseconds, "" for the server's. ARGV[2]: what part of its
-- lifetime is added to that of what is written, 0 to 1, up to five minutes. ARGV[3]: the limits, each seven doubles:
-- algorithm, requests, three parameters, 1 if refused hits count, the lifetime of an untouched state in milliseconds
-- (0: it never expires). ARGV[4]: the hits, each the numbers of its counter and its limit in two bytes each, and a
-- double. ARGV[5]: "", or a byte for each hit, of these: 1 it is counted with others, all or none; 2 it is the last of
-- those; 4 they are refused if it is; 8, in the last one: they are not counted in any case; 16 they
-- are not refused because its counter cannot be read.
-- Returns for each hit a byte, 1 if allowed, 0 if refused, 2 if the key has something else in it; the requests that
-- remain, in eight bytes; the seconds to the reset, rounded up, at least 1, in four.
-- Each counter is read once and written once, however many hits it has in the batch.
local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min
local MAX_COUNT, MAX_RESET, LIMB, SLOT_PARTS = 2 ^ 52, (2 ^ 32 - 1) * 1000, 65536, 32
local MAX_JITTER, MAX_READ = 300000, 1000

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
    if ends > now and ends <= last + length then
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
local formats = {}

-- How so many numbers are written: as doubles, big-endian.
local function format(count)
  local known = formats[count]
  if not known then
    known = '>' .. string.rep('d', count)
    formats[count] = known
  end
  return known
end

-- The state that `value` has, false if it is none of the algorithm.
local function read(value, algorithm)
  local size, count = sizes[algorithm], #value / 8
  if size > 0 and count ~= size or size == 0 and count % 2 ~= 0 then return false end
  local state = { struct.unpack(format(count), value) }
  state[count + 1] = nil -- where the next value would start
  for place = 1, count do
    local number = state[place]
    if number < 0 or number ~= floor(number) or number > MAX_COUNT then return false end
  end
  return state
end

local limits = {}
for place = 1, #ARGV[3] / 56 do
  limits[place] = { struct.unpack('>ddddddd', ARGV[3], place * 56 - 55) }
end

-- A value is false if there is no text under the key. What else is there is not overwritten.
local values = {}
for first = 1, #KEYS, MAX_READ do
  local read_values = redis.pcall('MGET', unpack(KEYS, first, min(first + MAX_READ - 1, #KEYS)))
  if read_values.err then return read_values end
  for place = 1, #read_values do values[#values + 1] = read_values[place] end
end

-- The state of each counter, nil if there is none, false if it cannot be used; the lifetime of those that are written.
local states, lifetimes = {}, {}

local function state_of(key, algorithm, hits)
  local state = states[key]
  if state ~= nil then return state end
  if values[key] then
    state = read(values[key], algorithm)
  elseif hits == 0 and type(redis.pcall('GET', KEYS[key])) == 'table' then
    state = false
  end
  states[key] = state
  return state
end

local function write(key, lifetime)
  local state = states[key]
  if #state == 0 then
    if values[key] then redis.call('DEL', KEYS[key]) end
    return true
  end
  local arguments = { 'SET', KEYS[key], struct.pack(format(#state), unpack(state)) }
  if lifetime > 0 then
    arguments[4], arguments[5] = 'PX', lifetime + floor(min(lifetime * jitter, MAX_JITTER))
  end
  if not values[key] then arguments[#arguments + 1] = 'NX' end
  return redis.call(unpack(arguments))
end

local hits_of, parts, results, count = ARGV[4], ARGV[5], {}, #ARGV[4] / 12
local unusable = struct.pack('>BI8I4', 2, 0, 1)

local function result(allowed, remaining, reset)
  return struct.pack('>BI8I4', allowed and 1 or 0, remaining, max(1, ceil(min(reset, MAX_RESET) / 1000)))
end

-- Counts the hit at `place`, and returns whether it was allowed.
local function count_hit(place)
  local key, number, hits = struct.unpack('>HHd', hits_of, place * 12 - 11)
  local limit = limits[number]
  local state = state_of(key, limit[1], hits)
  if state == false then
    results[place] = unusable
    return false
  end
  local counts_refused = limit[6] == 1
  local after, allowed, remaining, reset =
    steps[limit[1]](state, hits, limit[2], limit[3], limit[4], limit[5], counts_refused)
  if hits ~= 0 and after and (allowed or counts_refused) then
    states[key], lifetimes[key] = after, limit[7]
  end
  results[place] = result(allowed, remaining, reset)
  return allowed
end

-- Counts the hits from `first` on that go together, all or none, and returns the place of the last one.
local function count_jointly(first)
  local before, refused, allowed_at, place = {}, false, {}, first - 1
  local part
  repeat
    place = place + 1
    part = parts:byte(place)
    local number = struct.unpack('>H', hits_of, place * 12 - 11)
    if not before[number] then before[number] = { states[number], lifetimes[number] } end
    allowed_at[place] = count_hit(place)
    local passes = results[place] == unusable and part % 32 >= 16
    if not allowed_at[place] and part % 8 >= 4 and not passes then refused = true end
  until part % 4 >= 2
  if refused or part % 16 >= 8 then
    for key, kept in pairs(before) do states[key], lifetimes[key] = kept[1], kept[2] end
    for each = first, place do
      if allowed_at[each] then
        local key, number = struct.unpack('>HH', hits_of, each * 12 - 11)
        local limit = limits[number]
        local state = state_of(key, limit[1], 0)
        if state == false then
          results[each] = unusable
        else
          local _, _, remaining, reset =
            steps[limit[1]](state, 0, limit[2], limit[3], limit[4], limit[5], limit[6] == 1)
          results[each] = result(true, remaining, reset)
        end
      end
    end
  end
  return place
end

local place = 1
while place <= count do
  if parts ~= '' and parts:byte(place) % 2 == 1 then
    place = count_jointly(place)
  else
    count_hit(place)
  end
  place = place + 1
end
for key, lifetime in pairs(lifetimes) do
  if not write(key, lifetime) then
    for place = 1, count do
      if struct.unpack('>H', hits_of, place * 12 - 11) == key then results[place] = unusable end
    end
  end
end
return table.concat(results)
