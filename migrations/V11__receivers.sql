-- The receivers of what is due, and the first of each, are found without reading all that is due.
create index webhooks_turns on webhooks (coalesce(receiver, ''), (attempts > 0), due_at, sequence) where state = 'due';
