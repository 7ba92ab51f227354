-- Health of a CacheInstance for Argo CD: the value of resource.customizations.health.cache.akkeris.io_CacheInstance in the
-- ConfigMap argocd-cm.
local health = { status = "Progressing", message = "waiting for the operator" }
local status = obj.status
if status == nil or status.conditions == nil or status.observedGeneration ~= obj.metadata.generation then
  return health
end
local conditions = {}
for _, condition in ipairs(status.conditions) do
  conditions[condition.type] = condition
end
local ready, reconciling, stalled = conditions.Ready, conditions.Reconciling, conditions.Stalled
if stalled ~= nil and stalled.status == "True" then
  return { status = "Degraded", message = stalled.message }
end
if ready ~= nil then
  health.message = ready.message
  if ready.reason == "Paused" then
    health.status = "Suspended"
  elseif ready.status == "True" and (reconciling == nil or reconciling.status ~= "True"
      -- It serves, and what waits for the window may wait for days.
      or ready.reason == "AwaitingMaintenance") then
    health.status = "Healthy"
  end
end
return health
