-- Which operation of an instance, or of a binding, is the latest follows from the revision that it brings about: clocks
-- may be set back.

drop index operations_latest;
create index operations_latest on operations (instance_id, desired_revision desc, created_at desc, id)
    where binding_id is null;
drop index operations_of_bindings;
create index operations_of_bindings on operations (instance_id, binding_id, desired_revision desc, created_at desc, id)
    where binding_id is not null;
