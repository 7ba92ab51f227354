-- Restarts, backups and restores are operations, too.

alter table operations drop constraint operations_kind_check;
alter table operations add constraint operations_kind_check
    check (kind in ('provision', 'update', 'deprovision', 'restart', 'backup', 'restore'));

-- The latest restart that was accepted.
alter table instances add column restart_at timestamptz;
