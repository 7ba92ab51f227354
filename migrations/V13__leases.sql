-- Claiming a webhook touches no index: how long the claim holds stands in a column that none has, and pages keep room for
-- the next version of their rows.
alter table webhooks add column leased_until timestamptz;
alter table webhooks set (fillfactor = 50);
-- webhooks_of_operation finds them as well.
drop index webhooks_operation;
