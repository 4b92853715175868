-- Stand-in: a sequence says which allocation is next, an update that looks at the status takes it, pgmq.send().
--
-- Written to do well: UNLOGGED as ours is, no index but the key (so that updates are HOT), one function call. It draws
-- again when a number was taken already. No limit per user, no request id, no window, and a number that an aborted
-- claim has burnt stays unsold.
SELECT pgmq.create('standin');

CREATE UNLOGGED TABLE public.allocations (
    position    bigint PRIMARY KEY,
    resource_id uuid   NOT NULL DEFAULT gen_random_uuid(),
    status      text   NOT NULL DEFAULT 'AVAILABLE',
    locked_by   text,
    locked_at   timestamptz
) WITH (fillfactor = 50);
CREATE SEQUENCE public.position;

CREATE FUNCTION public.claim(the_user text, OUT outcome text, OUT resource_id uuid)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    number bigint;
BEGIN
    LOOP
        number := nextval('public.position');
        UPDATE public.allocations a SET status = 'RESERVED', locked_by = the_user, locked_at = clock_timestamp()
        WHERE a.position = number AND a.status = 'AVAILABLE'
        RETURNING a.resource_id INTO claim.resource_id;
        EXIT WHEN FOUND;
        IF number > (SELECT max(a.position) FROM public.allocations a) THEN
            outcome := 'sold_out';
            RETURN;
        END IF;
    END LOOP;
    PERFORM pgmq.send('standin', jsonb_build_object('resource_id', claim.resource_id, 'user_id', the_user,
        'position', number, 'claimed_at', clock_timestamp(), 'state', 'queued'));
    outcome := 'claimed';
END $$;
