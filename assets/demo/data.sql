-- Rows for schema.sql; 1.0 of hyperlift_demo.scale is about 400 000 rows. The same every time, but for the day on which the history ends.

select setseed(0.42);

create temporary table demo as
select current_setting('hyperlift_demo.scale')::float8 as scale, date_trunc('day', now() at time zone 'UTC') at time zone 'UTC' as today;

create function pg_temp.scaled(rows int) returns int language sql stable as $$
    select greatest(1, (rows * scale)::int) from demo
$$;

create function pg_temp.pick(variadic choices text[]) returns text language sql volatile as $$
    select choices[1 + floor(random() * cardinality(choices))::int]
$$;

insert into public.countries values
    ('AT', 'Austria'), ('CH', 'Switzerland'), ('CI', 'Côte d''Ivoire'), ('DE', 'Germany'), ('DK', 'Denmark'), ('ES', 'Spain'), ('FR', 'France'),
    ('GB', 'United Kingdom'), ('IN', 'India'), ('IT', 'Italy'), ('JP', '日本'), ('NL', 'Netherlands'), ('PL', 'Poland'), ('SE', 'Sweden'),
    ('US', 'United States');

insert into public.units values
    (1, '°C', 'temperature'), (2, '%', 'relative humidity'), (3, 'hPa', 'air pressure'), (4, 'V', 'voltage'), (5, 'µg/m³', 'fine dust');

insert into public.settings
select key, value::jsonb, today
from demo, (values ('sampling', '{"seconds": 60, "jitter": 0.5}'), ('alarm.mail', '["ops@example.com"]'), ('maintenance', 'null'), ('theme', '"dark"')) s (key, value);

insert into public.sites (name, country, location, timezone, opened, closed)
select 'Site ' || i, code, point(random() * 360 - 180, random() * 180 - 90), pg_temp.pick('UTC', 'Europe/Berlin', 'Asia/Tokyo', 'America/New_York'),
    date '2015-01-01' + (random() * 3000)::int, case when i % 9 = 0 then date '2024-06-30' end
from (select i, (select array_agg(code order by code) from public.countries) as codes from generate_series(1, 24) i) s,
    lateral (select codes[1 + i % cardinality(codes)] as code) c;

insert into public.devices (id, site_id, serial, model, tags, address, mac, calibration, active, installed_at, updated_at)
select i, 1 + i % 24, md5('device ' || i)::uuid, pg_temp.pick('TH-100', 'TH-200', 'AirBox 3', 'Volt''o''Meter'),
    case i % 4 when 0 then '{}' when 1 then array['indoor'] when 2 then array['outdoor', 'roof "A"'] else array['lab', null, 'a,b'] end,
    inet '10.0.0.0' + i, ('08:00:2b:00:' || lpad(to_hex(i / 256), 2, '0') || ':' || lpad(to_hex(i % 256), 2, '0'))::macaddr,
    case when i % 5 > 0 then array[random() - 0.5, 1 + random() / 100, 'NaN'] end, i % 17 > 0,
    today - interval '1000 days' + i * interval '7 hours', today - i * interval '1 minute'
from generate_series(1, 160) i, demo;

-- 60 days, most of them in the last weeks: sensors came one after the other
insert into public.metrics
select today - n * step + device_id * interval '117 ms', device_id, 20 + 8 * sin(n / 80.0 + device_id) + random(), 50 + 20 * cos(n / 90.0) + random() * 3,
    1013 + 10 * sin(n / 700.0), case when n % 50 > 0 then 3.2 + random() / 5 end, case when random() < 0.02 then 0 when random() < 0.9 then 100 end
from (select *, interval '60 days' / pg_temp.scaled(1900) as step from demo) d,
    generate_series(1, 160) device_id,
    lateral generate_series(1, (pg_temp.scaled(1900) * (0.5 + device_id / 320.0))::int) n;

insert into public.events (ts, device_id, severity, kind, payload, note)
select today - interval '60 days' * (1 - i / count::float8), case when i % 40 > 0 then 1 + (random() * 159)::int end, 1 + floor(random() ^ 3 * 5)::int,
    pg_temp.pick('reboot', 'alarm', 'door', 'battery', 'login', 'update'),
    jsonb_build_object('n', i, 'code', md5(i::text), 'values', jsonb_build_array(random(), i % 7, null, i % 2 = 0), 'who', jsonb_build_object('user', 'u' || i % 300)),
    case when i % 25 = 0 then E'tab\there, line\nbreak, back\\slash and \\N' when i % 10 = 0 then '' end
from (select *, pg_temp.scaled(50000) as count from demo) d, lateral generate_series(1, count) i;

insert into public.readings_by_month
select 1 + i % 160, today - i * (interval '120 days' / count), 1 + i % 5, round((random() * 100)::numeric, 3)
from (select *, pg_temp.scaled(48000) as count from demo) d, lateral generate_series(1, count) i;

insert into public.documents (device_id, title, revision, body, scan, updated_at)
select 1 + i % 160, 'Manual ' || i, 1 + i % 3, (select string_agg(md5(i || ':' || line), ' ' order by line) from generate_series(1, 200 + i * 7 % 900) line),
    case when i % 3 = 0 then (select decode(string_agg(md5(line || '/' || i), '' order by line), 'hex') from generate_series(1, 100 + i % 300) line) end, today
from demo, generate_series(1, pg_temp.scaled(250)) i;

insert into shop.customers (email, name, phones, addresses, birthday, preferences, credit, created_at, updated_at)
select 'customer' || i || '@example.com', pg_temp.pick('Ada', 'Grace', 'Søren', 'José', '花子', 'Zoë') || ' ' || pg_temp.pick('O''Hara', 'Müller', 'Smith', 'Иванов', 'da Silva'),
    case i % 3 when 0 then '{}' else array['+49 30 ' || i, '+1 (555) ' || i] end,
    case when i % 4 > 0 then array[row('Main Street ' || i, 'Berlin', lpad((i % 100000)::text, 5, '0'), 'DE')::shop.address, row('7, "Rue"', null, '', 'FR')::shop.address] end,
    case when i % 6 > 0 then date '1950-01-01' + (random() * 20000)::int end,
    case when i % 2 = 0 then json_build_object('newsletter', i % 4 = 0, 'language', pg_temp.pick('de', 'en', 'ja')) end,
    (i % 500 / 10.0)::numeric::money, today - random() * interval '900 days', today
from demo, generate_series(1, pg_temp.scaled(6000)) i;

insert into shop.products (sku, name, price, on_sale, attributes)
select 'SKU-' || lpad(i::text, 5, '0'), pg_temp.pick('Red', 'Small', 'Outdoor', 'Solar') || ' ' || pg_temp.pick('sensor', 'gateway', 'battery', 'bracket') || ' ' || i,
    round((5 + random() * 400)::numeric, 2), case when i % 5 = 0 then daterange(date '2024-01-01' + i, date '2024-02-01' + i) end,
    jsonb_build_object('weight', i % 40, 'colours', jsonb_build_array('red', 'blue'))
from generate_series(1, pg_temp.scaled(800)) i;

insert into shop.orders (customer_id, status, placed_at, ship_to, delivery_time, note, updated_at)
select 1 + floor(random() * customers)::int, (enum_range(null::shop.order_status))[1 + i % 7], today - interval '365 days' * (1 - i / count::float8),
    case when i % 3 > 0 then row('Side Street ' || i, 'Wien', '1010', 'AT')::shop.address end,
    case when i % 4 = 0 then make_interval(days => i % 9, hours => - (i % 5)) end, case when i % 11 = 0 then repeat('please ring twice; ', 1 + i % 20) end, today
from (select *, pg_temp.scaled(24000) as count, pg_temp.scaled(6000) as customers from demo) d, lateral generate_series(1, count) i;

insert into shop.order_items (order_id, line, sku, quantity, unit_price)
select o, line, 'SKU-' || lpad((1 + (o * 7 + line * 13) % products)::text, 5, '0'), 1 + (random() * 5)::int, round((5 + random() * 400)::numeric, 2)
from (select pg_temp.scaled(24000) as count, pg_temp.scaled(800) as products) d, lateral generate_series(1, count) o, lateral generate_series(1, 1 + o % 3) line;

insert into shop.recommendations
select c, 'SKU-' || lpad(p::text, 5, '0'), random() from generate_series(1, pg_temp.scaled(200)) c, generate_series(1, 3) p;

insert into shop.sessions
select md5('session ' || i)::uuid, case when i % 3 > 0 then 1 + i % pg_temp.scaled(6000) end, today - i * interval '1 minute', today - i * interval '30 seconds',
    inet '2001:db8::' + i
from demo, generate_series(1, pg_temp.scaled(5000)) i;

insert into shop.audit_log (at, actor, action, object, new_row)
select today - i * interval '5 minutes', 'postgres', 'UPDATE', 'shop.orders', jsonb_build_object('id', i)
from demo, generate_series(1, pg_temp.scaled(8000)) i;

insert into "Odd Names"."Order Notes" ("Order", "select", "say ""hi""", "größe.in %")
select i, i % 2 = 0, case when i % 3 = 0 then 'it''s nothing' when i % 3 = 1 then 'hi, "you"' end, case when i % 50 = 0 then 'NaN' else i / 7.0 end
from generate_series(1, pg_temp.scaled(1500)) i;

insert into "Odd Names"."import log"
select timestamp '2019-03-31 02:30:00' + i * interval '1 second', 'same line' from generate_series(1, pg_temp.scaled(900)) i, generate_series(1, 1 + i % 2);

select setval('shop.invoice_number', 100000 + pg_temp.scaled(24000)), nextval('public.ticket');

refresh materialized view shop.daily_sales;
drop function pg_temp.scaled(int);
drop function pg_temp.pick(text[]);
drop table demo;
