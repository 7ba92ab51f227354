-- Whether a cache is encrypted at rest, as its provider says; absent where it does not, or was not asked since.

alter table instances add column encrypted_at_rest boolean;
