-- $FIRST is the first id: the same values come before the copy and during replay.
insert into types.numbers
select $FIRST + row_number() over (), * from (values
  (32767::smallint, 9223372036854775807, 'NaN'::numeric, 9999999999999999999999999999.0123456789::numeric, 'NaN'::real, 'NaN'::float8, '92233720368547758.07'::money, 4294967295::oid, '4294967295'::xid, 'FFFFFFFF/FFFFFFFF'::pg_lsn, 99900::numeric),
  (-32768, -9223372036854775808, 'Infinity', -0.0000000001, 'Infinity', '-Infinity', '-92233720368547758.08', 0, '0', '0/0', -100),
  (0, 0, '-Infinity', 0, '-0', '-0', '0', 1, '1', '0/1', 0),
  (1, 1, 1.500000, 1, 1e-45, 5e-324, '0.01', 1, '2', '1/0', 100),
  (2, 2, 0.00000000000000000000000000000000000001, 0.1, 0.1, 0.1, '1', 1, '2', '1/0', 100),
  (3, 3, ('1e' || 131071)::numeric, 1, 3.4028235e38, 1.7976931348623157e308, '1', 1, '2', '1/0', 100),
  (4, 4, ('0.' || repeat('0', 16382) || '1')::numeric, 1, 0.30000001, 0.30000000000000004, '1', 1, '2', '1/0', 100),
  (null, null, null, null, null, null, null, null, null, null, null)) v;
insert into types.texts
select $FIRST + row_number() over (), * from (values
  ('', '', '', '', '', '', ''::public.citext, ''::bytea),
  (E'tab\tnewline\nreturn\rback\\slash', E'\\N', 'x ', 'c', 'name', 'Case', 'CiText', '\x00'),
  (E'\\.', '\N', 'ab', E'\\', E'a\nb', 'CASE', 'citext', '\x000102fffe'),
  ('😀𝄞 größe 量', '😀', '😀', '', 'größe', 'ß', 'É', decode(repeat('00ff', 50000), 'hex')),
  (repeat('long ', 40000), 'null', 'NULL', 'N', repeat('n', 63), repeat('long ', 1000), 'x', decode(repeat('ab', 3000), 'hex')),
  (chr(1) || chr(127) || chr(8) || chr(11) || chr(12), chr(160), ' ', ' ', ' ', ' ', ' ', '\x5c'),
  ('{"}', '''', '"', '''', '"', ',', '()', E'\\\\'),
  (null, null, null, null, null, null, null, null)) v;
insert into types.times
select $FIRST + row_number() over (), * from (values
  ('infinity'::date, '00:00'::time, '00:00+15:59'::timetz, 'infinity'::timestamp, '-infinity'::timestamptz, '0'::interval, '2026-01-01 00:00:00.6+00'::timestamptz, '1 year 2 mons'::interval, '23:59:59.9996'::time),
  ('-infinity', '24:00:00', '24:00:00-15:59', '-infinity', 'infinity', '-1 year -2 mons +3 days -04:05:06.789', 'infinity', '-178000000 years', '00:00'),
  ('4713-01-01 BC', '23:59:59.999999', '12:00:00.000001+05:30', '4713-01-01 00:00:00 BC', '4713-01-01 00:00:00+00 BC', '1 mon -1 day', '0001-01-01 00:00:00+00 BC', '178000000 years', '12:34:56.789'),
  ('5874897-12-31', '12:34:56', '12:34:56+00', '294276-12-31 23:59:59.999999', '294276-12-31 23:59:59.999999+00', '178000000 years', '2026-03-29 01:30:00+00', '0', '01:02:03'),
  ('2026-02-28', '01:02:03.4', '23:59:59-00:00:30', '2026-10-25 02:30:00', '2026-10-25 02:30:00 Europe/Berlin', '-2147483648 days', '1900-01-01 00:00:00+00', '1 mon', '01:02:03.4'),
  (null, null, null, null, null, null, null, null, null)) v;
insert into types.bits
select $FIRST + row_number() over (), * from (values
  (b'10101010'::bit(8), b''::varbit, true, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid, '::ffff:1.2.3.4/128'::inet, '10.0.0.0/8'::cidr, '08:00:2b:01:02:03'::macaddr, '08:00:2b:01:02:03:04:05'::macaddr8, '<a b="c">x &amp; y</a>'::xml, '{"a": 1, "a":  2 }'::json, '{"a": 1e2, "b": [null, "\u00e9"]}'::jsonb, '$.a[*] ? (@ > 1)'::jsonpath),
  (b'00000000', b'1', false, '00000000-0000-0000-0000-000000000000', '255.255.255.255', 'fe80::/10', '00:00:00:00:00:00', '00:00:00:00:00:00:00:00', 'only <b>text</b>', '"\u0000 is text"', '"x"', 'strict $.**'),
  (b'11111111', b'0101010101010101010101', null, null, '10.1.2.3/8', null, null, null, null, ' null ', 'null', null),
  (null, null, null, null, null, null, null, null, null, '[1, 2.50,   3]', '12345678901234567890.123456789000', null)) v;
insert into types.shapes
select $FIRST + row_number() over (), * from (values
  ('(1.5,-2e-300)'::point, '{1,2,3}'::line, '[(0,0),(1,1)]'::lseg, '(2,2),(1,1)'::box, '[(0,0),(1,1)]'::path, '((0,0),(1,1),(1,0))'::polygon, '<(0,0),1>'::circle, '(1,2,3)'::app.cube),
  ('(NaN,Infinity)', '{0,-1,0}', '[(0.1,0.2),(0.3,0.30000000000000004)]', '(3,2),(2,0)', '((0,0),(1,1))', '((0,0))', '<(1,1),0>', '(0),(1)'),
  (null, null, null, null, null, null, null, null)) v;
insert into types.arrays
select $FIRST + row_number() over (), * from (values
  ('{}'::int[], '{}'::text[], '{}'::app.colour[], '{}'::app.point3[], '{}'::numeric[], '{}'::public.citext[], '{}'::app.positive[], '{}'::bytea[], '{}'::json[], '{}'::box[]),
  ('[-2:0]={1,NULL,3}', '{"a,b","{}","\"","\\",NULL,"NULL",""," "}', '{red,"deep blue"}', '{"(1,2,3.00)","(,,)"}', '{{1.0,2.00},{NaN,Infinity}}', '{A,a}', '{1,2}', '{"\\x00","\\x"}', '{"{\"a\": 1}"}', '{(2,2),(1,1);(4,4),(3,3)}'),
  ('[1:1][2:3]={{1,2}}', '{{a,b},{c,NULL}}', '{NULL}', null, null, null, null, null, null, null)) v;
insert into types.made
select $FIRST + row_number() over (), * from (values
  ('deep blue'::app.colour, '(1,2,3.5)'::app.point3, row('it''s "quoted", \ and (parens)', row(1, 2, 3)::app.point3, array[row(1, null, 2.5)]::app.point3[])::app.line3, 'abc'::app.code, '{a,b}'::app.codes, '[1.5,2.5)'::app.float_range, '{[1,2),[3,4)}'::app.float_ranges, '[1,10)'::int4range, '{[2026-01-01,2026-01-02),[2026-02-01,)}'::tstzmultirange, '{"[1.0,2.00]",empty}'::numrange[], 'a:1A fat:2B,4C cat:5D'::tsvector, 'fat:AB & (rat | !cat:*C) <-> x'::tsquery, 'a=>1, "b c"=>"d, \"e\"", n=>NULL'::public.hstore, 'Top.Science.Astronomy'::public.ltree, '*.Astro*%{0,3}'::public.lquery, '[2026-01-01,infinity)'::daterange),
  ('red', '(,,)', row(null, null, '{}')::app.line3, null, '{}', 'empty', '{}', 'empty', '{}', '{}', '', '!a', '', '', '*', 'empty'),
  (null, null, null, null, null, '(,)', '{(,)}', '(,)', '{(,)}', null, '''it''''s'' ''a b''', '''a b'':*', null, null, null, '(,)'),
  ('yellow', row(1, 2, 3)::app.point3, row('', row(0, 0, 0)::app.point3, null)::app.line3, 'x', null, '[-Infinity,Infinity]', null, null, null, null, null, null, null, null, null, null)) v;
insert into types.whole_rows
select $FIRST + n, j::json, b::box, p::point, x::xml, c::circle, m, f, t, e::app.colour, l from (values
  (1, '{"a": 1}', '(2,2),(0,0)', '(1,1)', '<a/>', '<(0,0),2>', 1.0, 0.1, 'Case', 'red', row('n', row(1, 2, 3)::app.point3, null)::app.line3),
  (1, '{"a": 1}', '(2,2),(0,0)', '(1,1)', '<a/>', '<(0,0),2>', 1.0, 0.1, 'Case', 'red', row('n', row(1, 2, 3)::app.point3, null)::app.line3),
  (1, '{"a":1}', '(4,1),(0,0)', '(1,1)', '<a></a>', '<(9,9),2>', 1.00, 0.1, 'CASE', 'red', row('n', row(1, 2, 3)::app.point3, null)::app.line3),
  (2, null, null, null, null, null, null, null, null, null, null)) v (n, j, b, p, x, c, m, f, t, e, l);
insert into types.key_citext values ('Key $FIRST', 1), ('key other $FIRST', 1);
insert into types.key_char values ('k$FIRST', 1), ('l$FIRST', 2);
insert into types.key_icu values ('Key $FIRST', 1), ('other $FIRST', 1);
insert into types.key_numeric values ($FIRST.50, 1), ($FIRST.250, 1), ('NaN', $FIRST) on conflict do nothing;
insert into types.key_domain values ($FIRST + 1, 'red', 1), ($FIRST + 1, 'deep blue', 1);
insert into types.key_time values ('infinity', 'ffffffff-ffff-ffff-ffff-ffffffffffff', int4range(1, $FIRST + 2), 1), ('2026-01-01 00:00:00.000001+00', '00000000-0000-0000-0000-000000000000', int4range(null, $FIRST + 2), 1);
