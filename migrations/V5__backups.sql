-- Backups are CacheBackup resources; the ledger knows those that were asked for here by the operation that made them.

alter table operations
    -- The name of the CacheBackup that is made, or restored from.
    add column backup text;
create index operations_backups on operations (instance_id, created_at) where kind = 'backup';

-- What the cache is to be filled from, or was filled from last.
alter table instances add column restore text;
