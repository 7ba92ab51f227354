-- The ledger: what was promised to platforms. Desired state of a cache lives in its custom resource, what exists lives
-- in the provider; a row here says what was accepted, and what was last seen of it.

-- Every spec a plan ever had, counted from 1 for each OSB plan id. The count outlives the cluster, so that
-- maintenance_info.version never goes back.
create table plan_revisions (
    plan_id    text        not null,
    revision   bigint      not null check (revision > 0),
    digest     bytea       not null,
    created_at timestamptz not null default now(),
    primary key (plan_id, revision)
);

create table instances (
    id                text        primary key,
    service_id        text        not null,
    plan_id           text        not null,
    -- The CachePlan's name and the revision the instance runs from.
    plan_name         text        not null,
    plan_revision     bigint      not null,
    organization_guid text        not null,
    space_guid        text        not null,
    context           jsonb       not null default '{}',
    -- Sealed JSON object.
    parameters        bytea       not null,
    -- Sealed target that events go to when a request names none of its own.
    webhook           bytea,

    -- The custom resource.
    namespace         text        not null,
    name              text        not null,
    uid               text,

    -- The outbox: a row whose desired revision is ahead of the applied one is to be written to the cluster.
    desired           text        not null default 'present' check (desired in ('present', 'absent')),
    desired_revision  bigint      not null default 1,
    applied_revision  bigint      not null default 0,
    outbox_attempts   integer     not null default 0,
    outbox_due_at     timestamptz not null default now(),
    outbox_error      text,

    -- What the projector last saw of the resource, and which leader's list or watch it came from.
    observed_epoch    bigint      not null default 0,
    observed_version  text,
    ready             boolean     not null default false,
    reason            text,
    message           text,
    -- Sealed connection details; bind and fetch read nothing else.
    connection        bytea,

    created_at        timestamptz not null default now(),
    updated_at        timestamptz not null default now(),
    -- When it was first usable.
    provisioned_at    timestamptz,
    -- A tombstone from then on.
    deleted_at        timestamptz,

    check (applied_revision <= desired_revision)
);

create unique index instances_resource on instances (namespace, name) where deleted_at is null;
create index instances_outbox on instances (outbox_due_at) where applied_revision < desired_revision;
create index instances_plan on instances (plan_id) where deleted_at is null;

create table operations (
    id               uuid        primary key,
    instance_id      text        not null references instances (id),
    kind             text        not null check (kind in ('provision', 'update', 'deprovision')),
    state            text        not null default 'in_progress' check (state in ('in_progress', 'succeeded', 'failed')),
    description      text,
    -- The instance's desired revision that must be applied and observed before this ends.
    desired_revision bigint      not null,
    request_identity text,
    created_at       timestamptz not null default now(),
    deadline_at      timestamptz not null,
    ended_at         timestamptz,
    check ((state = 'in_progress') = (ended_at is null))
);

create unique index operations_one_in_progress on operations (instance_id) where state = 'in_progress';
create index operations_latest on operations (instance_id, created_at desc, id);
create index operations_deadline on operations (deadline_at) where state = 'in_progress';

create table bindings (
    instance_id text        not null references instances (id),
    id          text        not null,
    service_id  text        not null,
    plan_id     text        not null,
    app_guid    text,
    context     jsonb       not null default '{}',
    -- Sealed JSON objects.
    parameters  bytea       not null,
    credentials bytea       not null,
    created_at  timestamptz not null default now(),
    deleted_at  timestamptz,
    primary key (instance_id, id)
);

create table webhooks (
    -- The event's id: it stays the same however often the event is delivered.
    id            uuid        primary key,
    sequence      bigint      generated always as identity,
    instance_id   text        not null references instances (id),
    operation_id  uuid        not null references operations (id),
    -- Sealed URL and secret.
    target        bytea       not null,
    -- armed: waits for its operation to end; due: to be delivered; then delivered, or dead.
    state         text        not null default 'armed' check (state in ('armed', 'due', 'delivered', 'dead')),
    body          text,
    attempts      integer     not null default 0,
    due_at        timestamptz,
    last_error    text,
    created_at    timestamptz not null default now(),
    ended_at      timestamptz,
    check (state = 'armed' or body is not null)
);

create index webhooks_due on webhooks (due_at) where state = 'due';
create index webhooks_order on webhooks (instance_id, sequence) where state = 'due';
create index webhooks_operation on webhooks (operation_id) where state = 'armed';

-- One row. Each process that begins to lead takes the next epoch, and ledger writes of earlier ones are refused.
create table leader (
    only_row boolean primary key default true check (only_row),
    epoch    bigint  not null
);
insert into leader (epoch) values (0);
