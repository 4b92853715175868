-- The health of an IntakeEvent, out of its conditions. docs/gitops.md says why each is as it is.
-- Base Lua only: a check in argocd-cm has neither `string` nor `math`.
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

-- What others may still be applying while DB1 starts. Degraded would end the sync of an application with waves.
local may_come = {
  PodsNotStarting = true,
  DatabaseUnreachable = true,
  LedgerSecretMissing = true,
  LedgerSecretKeyMissing = true,
  LedgerUnreachable = true,
  LedgerFunctionMissing = true,
  InventoryMissing = true,
}
local starts = obj.status.phase == "Pending" or obj.status.phase == "Provisioning"

-- Something is wrong, and the message says what to do.
if is("Degraded", "True") then
  if starts and may_come[conditions["Degraded"].reason] then
    return said_by("Progressing", "Degraded")
  end
  return said_by("Degraded", "Degraded")
end

-- Nothing runs yet, but what the sale will need is not there.
if obj.status.phase == "Waiting" and is("PreflightPassed", "False") then
  return said_by("Degraded", "PreflightPassed")
end

-- The sale is over: nothing is left to do, every claim is settled, or a person has to decide.
if conditions["Drained"] ~= nil then
  local reason = conditions["Drained"].reason
  if is("Drained", "True") or reason == "Kept" then
    return said_by("Healthy", "Drained")
  end
  if reason == "DeadLettersBlock" or reason == "ProofFailed" then
    return said_by("Degraded", "Drained")
  end
end

-- Stopped on purpose. A drain waits for it as well.
if obj.spec.paused == true and (obj.status.phase == "Waiting" or is("Ready", "True")) then
  return health("Suspended", "spec.paused is true: no claims and no commits")
end

if obj.status.phase == "Draining" then
  return said_by("Progressing", "Drained")
end

if obj.status.phase == "Waiting" then
  return said_by("Healthy", "Ready")
end

if is("Ready", "True") then
  return said_by("Healthy", "IntakeOpen")
end

return said_by("Progressing", "Ready")
