-- A table for each family of types. The rows come from values.sql, before the copy and during replay.
create schema types;
create table types.numbers (
  id int primary key, a smallint, b bigint, c numeric, d numeric(38, 10), e real, f double precision, g money, h oid, i xid, j pg_lsn, k numeric(3, -2));
create table types.texts (id int primary key, a text, b varchar(20), c char(10), d "char", e name, f text collate app.ignore_case, g public.citext, h bytea);
create table types.times (
  id int primary key, a date, b time, c timetz, d timestamp, e timestamptz, f interval, g timestamptz(0), h interval year to month, i time(3));
create table types.bits (id int primary key, a bit(8), b varbit, c boolean, d uuid, e inet, f cidr, g macaddr, h macaddr8, i xml, j json, k jsonb, l jsonpath);
create table types.shapes (id int primary key, a point, b line, c lseg, d box, e path, f polygon, g circle, h app.cube);
create table types.arrays (
  id int primary key, a int[], b text[], c app.colour[], d app.point3[], e numeric[][], f public.citext[], g app.positive[], h bytea[], i json[], j box[]);
create table types.made (
  id int primary key, a app.colour, b app.point3, c app.line3, d app.code, e app.codes, f app.float_range, g app.float_ranges, h int4range,
  i tstzmultirange, j numrange[], k tsvector, l tsquery, m public.hstore, n public.ltree, o public.lquery, p daterange);
-- without a key: the whole old row finds what changed
create table types.whole_rows (id int, j json, b box, p point, x xml, c circle, n numeric, f float8, t text collate app.ignore_case, e app.colour, l app.line3);
alter table types.whole_rows replica identity full;
-- keys of other types
create table types.key_citext (k public.citext primary key, v int);
create table types.key_char (k char(8) primary key, v int);
create table types.key_icu (k text collate app.ignore_case primary key, v int);
create table types.key_numeric (k numeric primary key, v int);
create table types.key_domain (k app.positive, kind app.colour, v int, primary key (k, kind));
create table types.key_time (k timestamptz, u uuid, r int4range, v int, primary key (k, u, r));
