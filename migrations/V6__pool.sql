-- Instances made ahead, to be handed out at once.

create table pool_members (
    -- The name of its resource follows from it.
    id            uuid        primary key,
    plan_id       text        not null,
    -- The CachePlan's name and the revision the member runs from.
    plan_name     text        not null,
    plan_revision bigint      not null,

    -- The custom resource.
    namespace     text        not null,
    name          text        not null,
    uid           text,

    -- making: not to be handed out yet, or just now; failed: did not become ready, is replaced; retired: is never handed
    -- out, its resource is being deleted; claimed: belongs to an instance. Only making, ready and failed change into
    -- others.
    state         text        not null default 'making'
                              check (state in ('making', 'ready', 'failed', 'retired', 'claimed')),
    message       text,
    -- Since when it is in that state.
    since         timestamptz not null default now(),
    -- Sealed connection details; a claim takes nothing else.
    connection    bytea,
    claimed_by    text        references instances (id),
    created_at    timestamptz not null default now(),

    check (state <> 'ready' or (uid is not null and connection is not null)),
    check ((state = 'claimed') = (claimed_by is not null))
);

create unique index pool_members_resource on pool_members (namespace, name);
create index pool_members_ready on pool_members (plan_id, plan_revision, created_at) where state = 'ready';
create index pool_members_kept on pool_members (plan_name) where state <> 'claimed';
create index pool_members_claimed on pool_members (since) where state = 'claimed';
