-- Caches that another broker made and this one takes over.

alter table instances
    -- The cache's id in the provider, and the plan and revision that it counts as an instance of as it was found.
    add column adopt          text,
    add column adopt_plan     text,
    add column adopt_revision bigint,
    add check (num_nulls(adopt, adopt_plan, adopt_revision) in (0, 3));

alter table pool_members add column adopt text;
create unique index pool_members_adopt on pool_members (adopt) where state not in ('retired', 'claimed');
