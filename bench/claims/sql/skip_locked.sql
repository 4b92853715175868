-- Stand-in: what most people write. A table of allocations, the next free one by SKIP LOCKED, pgmq.send().
--
-- Written to do well: UNLOGGED as ours is, a partial index of the free rows only, room on each page for the new
-- version of a row, one function call and so one round trip. No limit per user, no request id, no window.
SELECT pgmq.create('standin');

CREATE UNLOGGED TABLE public.allocations (
    allocation_id bigint PRIMARY KEY,
    resource_id   uuid   NOT NULL DEFAULT gen_random_uuid(),
    status        text   NOT NULL DEFAULT 'AVAILABLE',
    locked_by     text,
    locked_at     timestamptz
) WITH (fillfactor = 70);
CREATE INDEX allocations_available ON public.allocations (allocation_id) WHERE status = 'AVAILABLE';

CREATE FUNCTION public.claim(the_user text, OUT outcome text, OUT resource_id uuid)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    found_id bigint;
BEGIN
    SELECT a.allocation_id INTO found_id FROM public.allocations a WHERE a.status = 'AVAILABLE'
    ORDER BY a.allocation_id LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        outcome := 'sold_out';
        RETURN;
    END IF;
    UPDATE public.allocations a SET status = 'RESERVED', locked_by = the_user, locked_at = clock_timestamp()
    WHERE a.allocation_id = found_id
    RETURNING a.resource_id INTO claim.resource_id;
    PERFORM pgmq.send('standin', jsonb_build_object('resource_id', claim.resource_id, 'user_id', the_user,
        'allocation_id', found_id, 'claimed_at', clock_timestamp(), 'state', 'queued'));
    outcome := 'claimed';
END $$;
