-- The health of an IntakeEvent, out of its conditions. docs/gitops.md says why each is as it is.
-- Base Lua only: a check in argocd-cm has neither `string` nor `math`, and gets `os` through require alone.
local os = require("os")
local hs = { status = "Progressing", message = "waiting for the operator" }

if obj.status == nil or obj.status.conditions == nil then
  return hs
end

local conditions = {}
for _, condition in ipairs(obj.status.conditions) do
  conditions[condition.type] = condition
end

local function is(type, status)
  return conditions[type] ~= nil and conditions[type].status == status
end

local function health(status, message)
  hs.status = status
  hs.message = message
  return hs
end

local function said_by(status, type)
  return health(status, conditions[type] ~= nil and conditions[type].message or "")
end

-- The conditions speak of an older spec.
if obj.status.observedGeneration ~= nil and obj.metadata.generation ~= nil
    and obj.status.observedGeneration < obj.metadata.generation then
  return health("Progressing", "waiting for the operator to see the new spec")
end

-- What others may be applying at the same time. For two minutes that is no failure: Degraded would end the sync of an
-- Application with waves. Times are UTC and of one length, so they compare as text.
local may_come = {
  PodsNotStarting = true,
  DatabaseUnreachable = true,
  LedgerSecretMissing = true,
  LedgerSecretKeyMissing = true,
  LedgerUnreachable = true,
  LedgerFunctionMissing = true,
  InventoryMissing = true,
  -- The host of a webhook does not resolve: its Service is in the same Application.
  LedgerDown = true,
  ValidatorDown = true,
}
local starts = obj.status.phase == "Pending" or obj.status.phase == "Provisioning"
local waits = obj.status.phase == "Waiting"

local function is_new(condition)
  -- Argo CD's os.date heeds `!` for the present time alone, so UTC goes through os.time as if it were local.
  local now = os.date("!*t")
  now.isdst = nil
  return condition.lastTransitionTime > os.date("%Y-%m-%dT%H:%M:%S", os.time(now) - 120)
end

-- Something is wrong, and the message says what to do. What a waiting event lacks is among it.
if is("Degraded", "True") then
  local degraded = conditions["Degraded"]
  if (starts or waits) and may_come[degraded.reason] and is_new(degraded) then
    return said_by("Progressing", "Degraded")
  end
  return said_by("Degraded", "Degraded")
end

-- The sale is over: nothing is left to do, every claim is settled, or a person has to decide.
if conditions["Drained"] ~= nil then
  local reason = conditions["Drained"].reason
  if is("Drained", "True") or reason == "Kept" then
    return said_by("Healthy", "Drained")
  end
  if reason == "ProofFailed" then
    return said_by("Degraded", "Drained")
  end
end

-- Stopped on purpose. A drain waits for it as well.
if obj.spec.paused == true and not starts then
  return health("Suspended", "spec.paused is true: no claims and no commits")
end

if obj.status.phase == "Draining" then
  return said_by("Progressing", "Drained")
end

-- Nothing runs yet, as planned.
if waits then
  if is("PreflightPassed", "Unknown") then
    return said_by("Progressing", "PreflightPassed")
  end
  return said_by("Healthy", "Ready")
end

if is("Ready", "True") then
  return said_by("Healthy", "IntakeOpen")
end

return said_by("Progressing", "Ready")
