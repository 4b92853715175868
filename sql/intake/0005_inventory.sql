-- The inventory of pools that bring their own resource ids, labels and attributes (ownResources).
--
-- For the operator: stock.

CREATE FUNCTION intake_private.label_as_uuid(label text) RETURNS uuid
LANGUAGE sql IMMUTABLE
-- All spellings that the type uuid accepts: with or without hyphens and braces, in upper or lower case.
RETURN CASE WHEN length(label) BETWEEN 32 AND 41
    AND label ~ '^[{]?([0-9A-Fa-f]{4}-?){7}[0-9A-Fa-f]{4}[}]?$' AND (left(label, 1) = '{') = (right(label, 1) = '}')
    THEN label::uuid END;
COMMENT ON FUNCTION intake_private.label_as_uuid IS
    'The resource id that a label can be read as; NULL if it is not a UUID in any spelling.';

CREATE FUNCTION intake_private.invisible_character(label text) RETURNS text
LANGUAGE sql IMMUTABLE
-- Control characters, every space but the plain one, and Default_Ignorable_Code_Point of Unicode. The operator has
-- the same list; a test tries every character on both.
RETURN CASE WHEN label ~ '^ | $' THEN ' ' ELSE substring(label FROM
    '[\u0001-\u001f\u007f-\u00a0\u00ad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f'
    '\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb'
    '\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]') END;
COMMENT ON FUNCTION intake_private.invisible_character IS
    'The first invisible character of a label, because two labels with it would look alike; NULL if there is none.';

CREATE TABLE intake.inventory (
    pool_no     int    NOT NULL,
    slot_no     bigint NOT NULL,
    resource_id uuid   NOT NULL,
    label       text   CHECK (length(label) BETWEEN 1 AND 200),
    attributes  jsonb,
    PRIMARY KEY (pool_no, slot_no),
    CONSTRAINT inventory_resource_key UNIQUE (pool_no, resource_id),
    CONSTRAINT inventory_label_key UNIQUE (pool_no, label)
);
-- Small, because few labels can be read as an id. stock() looks up whether a new id is a label already.
CREATE INDEX inventory_label_as_id ON intake.inventory (pool_no, intake_private.label_as_uuid(label))
WHERE intake_private.label_as_uuid(label) IS NOT NULL;
COMMENT ON TABLE intake.inventory IS
    'Resource ids, labels and attributes of pools that bring their own. LOGGED: they cannot be computed again after a '
    'crash.';
COMMENT ON COLUMN intake.inventory.attributes IS
    'The other columns of the user''s row, as a JSON object; NULL where there are none.';

CREATE FUNCTION intake_private.find_duplicate(pool_no int, first_slot bigint, resource_ids uuid[], labels text[])
RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT format('slots %s and %s have the same %s, %L', o.slot_no, g.slot_no, g.what, left(g.name, 60))
    FROM (SELECT a.*, min(a.slot_no) OVER (PARTITION BY a.what, a.name) AS first FROM (
            SELECT find_duplicate.first_slot + r.n - 1 AS slot_no, 'resource id' AS what, r.id::text AS name
            FROM unnest(find_duplicate.resource_ids) WITH ORDINALITY AS r (id, n)
            UNION ALL
            SELECT find_duplicate.first_slot + l.n - 1, 'label',
                l.label FROM unnest(find_duplicate.labels) WITH ORDINALITY AS l (label, n)) a
        WHERE a.name IS NOT NULL) g
    CROSS JOIN LATERAL (SELECT least(g.first, CASE g.what
        WHEN 'label'
            THEN (SELECT v.slot_no FROM intake.inventory v WHERE v.pool_no = find_duplicate.pool_no
                AND v.label = g.name)
        ELSE (SELECT v.slot_no FROM intake.inventory v WHERE v.pool_no = find_duplicate.pool_no
            AND v.resource_id = g.name::uuid)
        END) AS slot_no) o
    WHERE o.slot_no < g.slot_no ORDER BY g.slot_no LIMIT 1
$$;
COMMENT ON FUNCTION intake_private.find_duplicate IS
    'Which of these rows has an id or a label that another slot has, in words for an error message; NULL if none.';

CREATE FUNCTION intake_private.find_ambiguous_label(pool_no int, first_slot bigint, resource_ids uuid[], labels text[])
RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
-- Always by index, whatever the statistics say: the first call runs before there are any.
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
    SELECT format('the label of slot %s is the resource id of slot %s', c.label_of, c.id_of) FROM (
        SELECT find_ambiguous_label.first_slot + l.n - 1 AS label_of, (SELECT v.slot_no FROM intake.inventory v
            WHERE v.pool_no = find_ambiguous_label.pool_no
                AND v.resource_id = intake_private.label_as_uuid(l.label)) AS id_of
        FROM unnest(find_ambiguous_label.labels) WITH ORDINALITY AS l (label, n)
        WHERE intake_private.label_as_uuid(l.label) IS NOT NULL
        UNION ALL
        SELECT v.slot_no, find_ambiguous_label.first_slot + r.n - 1
        FROM unnest(find_ambiguous_label.resource_ids) WITH ORDINALITY AS r (id, n)
        JOIN intake.inventory v ON v.pool_no = find_ambiguous_label.pool_no
            AND intake_private.label_as_uuid(v.label) = r.id) c
    WHERE c.label_of <> c.id_of ORDER BY greatest(c.label_of, c.id_of) LIMIT 1
$$;
COMMENT ON FUNCTION intake_private.find_ambiguous_label IS
    'Which label among these rows and all that are stocked is the resource id of another slot, in words for an error '
    'message; NULL if none.';

CREATE FUNCTION intake_private.check_labels(first_slot bigint, labels text[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    bad record;
BEGIN
    SELECT check_labels.first_slot + l.n - 1 AS slot_no, intake_private.invisible_character(l.label) AS sign INTO bad
    FROM unnest(check_labels.labels) WITH ORDINALITY AS l (label, n)
    WHERE intake_private.invisible_character(l.label) IS NOT NULL ORDER BY l.n LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the label of slot % has the character U+%, which is invisible there', bad.slot_no,
            upper(regexp_replace(lpad(to_hex(ascii(bad.sign)), 6, '0'), '^00?', '')) USING ERRCODE = 'IE002',
            HINT = 'Remove it, or write a plain space: users cannot tell such labels apart.';
    END IF;
END $$;
COMMENT ON FUNCTION intake_private.check_labels IS
    'Raises IE002 for the first label with an invisible character, or with a space at an end.';

CREATE FUNCTION intake_private.attribute_flaw(attributes jsonb) RETURNS text
LANGUAGE sql IMMUTABLE
-- The names are the fields of a claim and of its seats, as validator, ledger and claimers get them. The operator has
-- the same list and the same limit; a test compares them.
RETURN CASE WHEN jsonb_typeof(attributes) <> 'object' THEN 'are no JSON object'
    WHEN octet_length(attributes::text) > 1024
        THEN format('have %s bytes, and a slot keeps at most 1024', octet_length(attributes::text))
    WHEN attributes ? '' THEN 'have a value without a name'
    ELSE (SELECT format('have the name %L, which a field of the claim has', left(k, 60))
        FROM jsonb_object_keys(attributes) k
        WHERE lower(k) IN ('attributes', 'claim_id', 'claimed_at', 'label', 'payload', 'pool_id', 'receipt',
            'request_id', 'resource_id', 'seats', 'slot_no', 'user_id', 'validation') LIMIT 1) END;
COMMENT ON FUNCTION intake_private.attribute_flaw IS
    'What is wrong with the attributes of a slot, in words for an error message; NULL if nothing is.';

CREATE FUNCTION intake_private.check_attributes(first_slot bigint, attributes jsonb[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    bad record;
BEGIN
    SELECT check_attributes.first_slot + a.n - 1 AS slot_no, intake_private.attribute_flaw(a.attributes) AS flaw
    INTO bad FROM unnest(check_attributes.attributes) WITH ORDINALITY AS a (attributes, n)
    WHERE intake_private.attribute_flaw(a.attributes) IS NOT NULL ORDER BY a.n LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the attributes of slot % %', bad.slot_no, bad.flaw USING ERRCODE = 'IE002',
            HINT = 'Attributes are a JSON object of names of your own and values, or NULL; leave out what a sale does '
                'not need.';
    END IF;
END $$;
COMMENT ON FUNCTION intake_private.check_attributes IS
    'Raises IE002 for the first attributes that cannot be kept.';

CREATE FUNCTION intake_private.check_stocked_rows(config intake.engine_config, first_slot bigint, resource_ids uuid[],
    labels text[], attributes jsonb[]) RETURNS void
LANGUAGE plpgsql
-- The first call runs before there are statistics, and a nested loop would compare each row with all that are stocked.
SET enable_nestloop = off AS $$
DECLARE
    differs record;
BEGIN
    SELECT v.slot_no, CASE WHEN (v.resource_id, v.label) IS DISTINCT FROM (w.resource_id, w.label)
        THEN 'another resource'
        ELSE 'other attributes: ' || (SELECT string_agg(k, ', ') FROM (
            SELECT jsonb_object_keys(coalesce(v.attributes, '{}') || coalesce(w.attributes, '{}')) AS k) k
            WHERE v.attributes -> k IS DISTINCT FROM w.attributes -> k) END AS what
    INTO differs
    FROM unnest(check_stocked_rows.resource_ids, check_stocked_rows.labels, check_stocked_rows.attributes)
        WITH ORDINALITY AS w (resource_id, label, attributes, n)
    JOIN intake.inventory v ON v.pool_no = config.pool_no AND v.slot_no = check_stocked_rows.first_slot + w.n - 1
        AND v.slot_no BETWEEN check_stocked_rows.first_slot
            AND check_stocked_rows.first_slot + cardinality(check_stocked_rows.resource_ids) - 1
    -- No attributes are an object without any.
    WHERE (v.resource_id, v.label, coalesce(v.attributes, '{}'))
        IS DISTINCT FROM (w.resource_id, w.label, coalesce(w.attributes, '{}'))
    ORDER BY v.slot_no LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'slot % of pool % is stocked with %', differs.slot_no, config.pool_id, differs.what
            USING ERRCODE = 'IE006', HINT = 'It may be sold already: only append rows, never change or reorder them.';
    END IF;
END $$;
COMMENT ON FUNCTION intake_private.check_stocked_rows IS
    'Raises IE006 for the first of these rows that is stocked already with another id or label, or other attributes.';

CREATE FUNCTION intake.stock(pool_id text, first_slot bigint, resource_ids uuid[], labels text[] DEFAULT NULL,
    attributes jsonb[] DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config    intake.engine_config := intake_private.config_of(stock.pool_id);
    stocked   bigint;
    ambiguous text;
BEGIN
    IF NOT config.own_resources THEN
        RAISE EXCEPTION 'pool % counts its slots and has no resources of its own', stock.pool_id
            USING ERRCODE = 'IE002',
            HINT = 'Call configure() with "ownResources": true.';
    END IF;
    IF stock.labels IS NOT NULL THEN
        -- A label has one normal form, here and in claim_seats(), however its characters are composed.
        stock.labels := ARRAY(SELECT normalize(l.label, NFC) FROM unnest(stock.labels) WITH ORDINALITY AS l (label, n)
            ORDER BY l.n);
    END IF;
    IF coalesce(cardinality(stock.resource_ids), 0) = 0 OR array_position(stock.resource_ids, NULL) IS NOT NULL
            OR cardinality(stock.labels) <> cardinality(stock.resource_ids)
            OR cardinality(stock.attributes) <> cardinality(stock.resource_ids)
            OR EXISTS (SELECT FROM unnest(stock.labels) l WHERE length(l) NOT BETWEEN 1 AND 200) THEN
        RAISE EXCEPTION 'stock needs resource ids, and labels and attributes parallel to them or none'
            USING ERRCODE = 'IE002',
            HINT = 'No resource id is NULL; a label is NULL or has 1 to 200 characters.';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('intake.seed'), config.pool_no);
    SELECT coalesce(max(v.slot_no), 0) INTO stocked FROM intake.inventory v WHERE v.pool_no = config.pool_no;
    IF coalesce(stock.first_slot, 0) NOT BETWEEN 1 AND stocked + 1 THEN
        RAISE EXCEPTION 'slot % cannot come next: pool % has resources up to slot %', stock.first_slot, stock.pool_id,
            stocked USING ERRCODE = 'IE002', HINT = 'Slots are stocked in order and without gaps.';
    END IF;
    PERFORM intake_private.check_labels(stock.first_slot, stock.labels);
    PERFORM intake_private.check_attributes(stock.first_slot, stock.attributes);
    PERFORM intake_private.check_stocked_rows(config, stock.first_slot, stock.resource_ids, stock.labels,
        stock.attributes);
    BEGIN
        INSERT INTO intake.inventory (pool_no, slot_no, resource_id, label, attributes)
        SELECT config.pool_no, stock.first_slot + w.n - 1, w.resource_id, w.label, w.attributes
        FROM unnest(stock.resource_ids, stock.labels, stock.attributes)
            WITH ORDINALITY AS w (resource_id, label, attributes, n)
        WHERE stock.first_slot + w.n - 1 > stocked;
    EXCEPTION WHEN unique_violation THEN
        RAISE EXCEPTION 'pool % would have a duplicate: %', stock.pool_id,
            coalesce(intake_private.find_duplicate(config.pool_no, stock.first_slot, stock.resource_ids, stock.labels),
                SQLERRM)
            USING ERRCODE = 'IE002', HINT = 'Resource ids and labels are unique within a pool.';
    END;
    ambiguous := intake_private.find_ambiguous_label(config.pool_no, stock.first_slot, stock.resource_ids,
        stock.labels);
    IF ambiguous IS NOT NULL THEN
        RAISE EXCEPTION 'pool % would have two seats with the same name: %', stock.pool_id, ambiguous
            USING ERRCODE = 'IE002',
            HINT = 'claim_seats() finds seats by label and by resource id: give that slot another label.';
    END IF;
    RETURN (SELECT max(v.slot_no) FROM intake.inventory v WHERE v.pool_no = config.pool_no);
END $$;
COMMENT ON FUNCTION intake.stock IS
    'Append resources to the inventory of a pool with ownResources, from first_slot on. Labels and attributes (JSON '
    'objects of at most 1024 bytes) may be NULL, as a whole or one by one. Rows that are stocked already must be the '
    'same, so a load that was interrupted can be repeated. Returns how many resources the pool has; seed() puts them on '
    'sale. Raises IE001 for an unknown pool, IE002 for rows that cannot be stocked (gaps, duplicates, bad labels or '
    'attributes, a counted pool), IE006 for another resource or other attributes than a slot has already.';
