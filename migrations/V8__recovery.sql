-- What a process took and did not finish is found by others within seconds; receivers do not wait for each other; and
-- what ended long ago can be forgotten.

-- Whose a row of the outbox, or an event, is for the moment: one value for each time that rows are taken. Whoever works
-- on them renews it.
alter table instances add column outbox_claim uuid;
alter table webhooks
    add column claim    uuid,
    -- A digest of the receiver's host and port; absent in rows of before.
    add column receiver bytea;

-- A member is handed out only once the present leader has seen it: a ledger that was restored from a backup may have
-- members that were handed out since.
alter table pool_members add column verified_epoch bigint not null default 0;

-- Deletions of resources say from now on that they were asked for; those under way are written again, so that they do.
update instances
    set outbox_due_at = now(), applied_revision = least(applied_revision, desired_revision - 1)
    where desired = 'absent' and deleted_at is null;

alter table audit
    drop constraint audit_operation_id_fkey,
    add constraint audit_operation_id_fkey foreign key (operation_id) references operations (id) on delete set null;
create index audit_operation on audit (operation_id) where operation_id is not null;
create index webhooks_of_operation on webhooks (operation_id);
create index webhooks_of_instance on webhooks (instance_id);
create index webhooks_ended on webhooks (ended_at) where ended_at is not null;
create index webhooks_dead on webhooks (ended_at) where state = 'dead';
create index operations_ended on operations (ended_at) where ended_at is not null;
create index instances_deleted on instances (deleted_at) where deleted_at is not null;
create index pool_members_owner on pool_members (claimed_by) where claimed_by is not null;
