-- Users for each binding. What a binding waits for is an operation, of which each binding has at most one in progress
-- beside that of its instance.

alter table operations
    add column binding_id text;
alter table operations drop constraint operations_kind_check;
alter table operations add constraint operations_kind_check
    check (kind in ('provision', 'update', 'deprovision', 'restart', 'backup', 'restore', 'bind', 'unbind'));
alter table operations add constraint operations_binding_check
    check ((kind in ('bind', 'unbind')) = (binding_id is not null));

drop index operations_one_in_progress;
create unique index operations_one_in_progress on operations (instance_id)
    where state = 'in_progress' and binding_id is null;
create unique index operations_one_of_a_binding on operations (instance_id, binding_id)
    where state = 'in_progress' and binding_id is not null;
drop index operations_latest;
create index operations_latest on operations (instance_id, created_at desc, id) where binding_id is null;
create index operations_of_bindings on operations (instance_id, binding_id, created_at desc, id)
    where binding_id is not null;

alter table bindings
    -- binding: its user is being made; bound: it can be used; unbinding: its user is being removed.
    add column state       text not null default 'bound' check (state in ('binding', 'bound', 'unbinding')),
    -- Its user in the cache; absent where it was handed what all are. The password is in the credentials.
    add column username    text,
    -- The binding that it succeeds (OSB 2.17, "Binding Rotation").
    add column predecessor text,
    add check (state = 'bound' or username is not null);
create index bindings_users on bindings (instance_id) where username is not null and deleted_at is null;
