-- Updates: what a plan was at each revision, and what an operation changed, so that a failed one can be put back.

-- Absent for revisions that were counted before this column was there.
alter table plan_revisions add column spec jsonb;

alter table operations
    -- Sealed: what was asked for, to know the same request when it is repeated.
    add column request             bytea,
    -- What the instance had before; the parameters are sealed as they stood in its row.
    add column previous_plan_id       text,
    add column previous_plan_name     text,
    add column previous_plan_revision bigint,
    add column previous_parameters    bytea,
    -- What a failed update left (OSB 2.17, "Service Broker Errors").
    add column instance_usable     boolean,
    add column update_repeatable   boolean,
    add check (num_nulls(previous_plan_id, previous_plan_name, previous_plan_revision, previous_parameters) in (0, 4));
