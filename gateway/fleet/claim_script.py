"""The Lua script by which replicas claim hooks and publish verdicts, each in one step.

A claim is a hash: ``o`` is its owner's token (``PROCESS.EPOCH:NUMBER``), ``v`` the verdict once there is one, ``k`` is
set where that holds for later hooks too, and each ``w:PROCESS`` is a process that waits. An owner lives while its
heartbeat does; one that asks again also looks whether the owner hears its channel, for a process that was killed has
lost that at once. It is one script, so that a server knows both halves or none.
"""

from __future__ import annotations

from typing import Final

from gateway.fleet.scripts import Script

CLAIM: Final = "claim"
"""Claim a hook. More arguments: the token of the one who asks, its process, for how many milliseconds, the prefixes of
heartbeats and of channels. Returns MINE, TAKEN, or DECIDED with the verdict and the milliseconds for which it still
holds (0 = for those only who waited for it)."""
END: Final = "end"
"""End a claim. More arguments: the owner's token, the verdict (empty: there is none), for how many milliseconds it is
there, whether it holds for later hooks (empty: no), the prefix of channels, and the message for those who wait, which
the verdict follows. Returns how many were told."""

MINE: Final = 0
"""The hook is claimed by the one who asks."""
TAKEN: Final = 1
"""Another process has it in flight, and lives."""
DECIDED: Final = 2
"""There is a verdict."""

CLAIMS: Final = Script("""
local key, token = KEYS[1], ARGV[2]
local owner = redis.call('HGET', key, 'o')

if ARGV[1] == 'claim' then
  local waiter = 'w:' .. ARGV[3]
  if owner then
    local verdict = redis.call('HGET', key, 'v')
    if verdict then
      local kept = redis.call('HEXISTS', key, 'k') == 1
      if kept or redis.call('HEXISTS', key, waiter) == 1 then
        return {2, verdict, kept and redis.call('PTTL', key) or 0}
      end
      redis.call('DEL', key)
    else
      local process, epoch = string.match(owner, '^(.-)%.(.-):')
      local lives = process and process ~= ARGV[3] and redis.call('EXISTS', ARGV[5] .. process .. '.' .. epoch) == 1
      if lives and redis.call('HSET', key, waiter, '') == 0 then
        lives = redis.call('PUBSUB', 'NUMSUB', ARGV[6] .. process)[2] > 0
      end
      if lives then
        return {1}
      end
      redis.call('HDEL', key, waiter)
    end
  end
  redis.call('HSET', key, 'o', token)
  redis.call('PEXPIRE', key, ARGV[4])
  return {0}
end

if owner ~= token then
  return 0
end
local verdict, told = ARGV[3], 0
local fields = redis.call('HKEYS', key)
if verdict == '' then
  redis.call('DEL', key)
else
  redis.call('HSET', key, 'v', verdict)
  if ARGV[5] ~= '' then
    redis.call('HSET', key, 'k', '')
  end
  redis.call('PEXPIRE', key, ARGV[4])
end
for _, field in ipairs(fields) do
  if string.sub(field, 1, 2) == 'w:' then
    redis.call('PUBLISH', ARGV[6] .. string.sub(field, 3), ARGV[7] .. verdict)
    told = told + 1
  end
end
return told
""")
"""KEYS: the claim. ARGV: CLAIM or END, and what they say."""
