-- Placeholders: :from, :to first and last time step of :step seconds; :events, :orders rows.
-- devices
select setseed(0.1);
insert into devices
select i, 'dev-' || lpad(i::text, 6, '0'), 'site-' || (i % 97), 'model-' || chr(65 + i % 26), i % 4,
       '2024-01-01'::timestamptz + i * interval '7 min', null, 90 * random(), 180 * random(),
       jsonb_build_object('fw', 'v' || (i % 9) || '.' || (i % 13), 'rack', i % 40, 'tags', jsonb_build_array('a' || i % 5, 'b' || i % 7))
from generate_series(1, 10000) i;
-- metrics
select setseed(0.2);
insert into metrics
select '2025-01-01'::timestamptz + t * interval ':step s', d, round((50 + 40 * sin(t / 50.0 + d) + 10 * random())::numeric, 2)::float8,
       round((100 * random())::numeric, 2)::float8, round((20 + 15 * random())::numeric, 1)::float8, floor(1e6 * random()),
       floor(1e7 * random()), 1e7 * random(), 230 + random(), 16 * random(), 100 * random(), 1013 + 20 * random(),
       case when d % 3 = 0 then 'region=eu,az=' || d % 3 || ',role=db' when d % 3 = 1 then 'region=us,role=web' end
from generate_series(:from, :to) t, generate_series(1, 10000) d;
-- events
select setseed(0.4);
insert into events (device_id, ts, kind, payload)
select 1 + ((i::bigint * 7919) % 10000)::int, '2025-01-01'::timestamptz + i * interval '1 s', (array['boot', 'alarm', 'login', 'cfg', 'error'])[1 + i % 5],
       jsonb_build_object('seq', i, 'sev', i % 7, 'msg', 'event ' || md5(i::text) || ' in "zone" ' || i % 33,
           'v', jsonb_build_array(round(random()::numeric, 4), i % 100, null, true),
           'ctx', jsonb_build_object('user', 'u' || i % 1000, 'ip', '10.' || i % 255 || '.' || i % 13 || '.7'))
from generate_series(1, :events) i;
-- orders
select setseed(0.5);
insert into orders (customer, device_id, created_at, status, total)
select 'customer ' || i % 5000, 1 + i % 10000, '2025-01-01'::timestamptz + i * interval '5 s', (array['new', 'paid', 'sent', 'done'])[1 + i % 4],
       round((1000 * random())::numeric, 2)
from generate_series(1, :orders) i;
insert into order_items
select o, l, 'SKU-' || (o * l) % 9999, 1 + (o + l) % 9, round((100 * random())::numeric, 2),
       case when o % 5 = 0 then E'note with\ttab and \\ backslash' end
from generate_series(1, :orders) o, generate_series(1, 1 + (o % 4)::int) l;
-- small tables
do $$
begin
    for n in 1..50 loop
        execute format($table$
            create table %1$I (id int primary key, u uuid, n numeric, d date, a text[], b bytea, f boolean, iv interval, t text unique);
            insert into %1$I
            select i, md5(%2$L || i)::uuid, i / 3.0, '2020-01-01'::date + i, array['x' || i, 'y,"' || i, null], decode(md5(i::text), 'hex'), i %% 2 = 0,
                   i * interval '1 min', 'small ' || %2$L || ' ' || i
            from generate_series(1, 1000) i
            $table$, 'small_' || lpad(n::text, 2, '0'), n);
    end loop;
end $$;
