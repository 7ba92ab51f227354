-- Who asked for what, when, and what was answered. How it ended stands with the operation.

create table audit (
    id               bigint      generated always as identity primary key,
    at               timestamptz not null default clock_timestamp(),
    instance_id      text        not null,
    binding_id       text,
    request          text        not null,
    -- Who was let in, and on whose behalf (OSB 2.17, "Originating Identity").
    caller           text        not null,
    platform         text,
    identity         jsonb,
    request_identity text,
    plan_id          text,
    -- Names only: values may be secrets.
    parameters       text[]      not null,
    status           smallint    not null,
    refusal          text,
    operation_id     uuid        references operations (id)
);

create index audit_instance on audit (instance_id, id);
create index audit_at on audit (at);

-- Quotas of organizations count these.
create index instances_organization on instances (organization_guid) where deleted_at is null;
