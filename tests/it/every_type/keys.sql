-- Rows that are found by other operators than the default ones. Tables are filled before the copy.
create type public.price as (amount numeric, unit text);
create table public.image (p public.price not null, v text);
create unique index image_u on public.image (p record_image_ops);
alter table public.image replica identity using index image_u;
insert into public.image values (row(1.0, 'a'), 'one'), (row(1.00, 'a'), 'two'), (row(2.0, 'a'), 'three');
insert into public.image select row(i + 0.0, 'b')::public.price, 'b' from generate_series(1, 30) i;
insert into public.image select row(i + 0.00, 'b')::public.price, 'c' from generate_series(1, 30) i;
create table public.pattern (t text not null, w varchar(10) not null, c char(4) not null, v int);
create unique index pattern_u on public.pattern (t text_pattern_ops, w varchar_pattern_ops, c bpchar_pattern_ops);
alter table public.pattern replica identity using index pattern_u;
insert into public.pattern select 't' || i, 'w' || i, 'c', i from generate_series(1, 40) i;
-- a type with an operator class that is not the default
create type public.code;
create function public.code_in(cstring) returns public.code language internal immutable strict as 'int4in';
create function public.code_out(public.code) returns cstring language internal immutable strict as 'int4out';
create type public.code (input = public.code_in, output = public.code_out, like = pg_catalog.int4);
create function public.code_lt(public.code, public.code) returns bool language internal immutable strict as 'int4lt';
create function public.code_le(public.code, public.code) returns bool language internal immutable strict as 'int4le';
create function public.code_eq(public.code, public.code) returns bool language internal immutable strict as 'int4eq';
create function public.code_ge(public.code, public.code) returns bool language internal immutable strict as 'int4ge';
create function public.code_gt(public.code, public.code) returns bool language internal immutable strict as 'int4gt';
create function public.code_cmp(public.code, public.code) returns int language internal immutable strict as 'btint4cmp';
create operator public.<< (leftarg = public.code, rightarg = public.code, function = public.code_lt);
create operator public.<<= (leftarg = public.code, rightarg = public.code, function = public.code_le);
create operator public.=== (leftarg = public.code, rightarg = public.code, function = public.code_eq);
create operator public.>>= (leftarg = public.code, rightarg = public.code, function = public.code_ge);
create operator public.>> (leftarg = public.code, rightarg = public.code, function = public.code_gt);
create operator class public.code_ops for type public.code using btree as
  operator 1 public.<<, operator 2 public.<<=, operator 3 public.===, operator 4 public.>>=, operator 5 public.>>, function 1 public.code_cmp(public.code, public.code);
create table public.coded (c public.code not null, v text);
create unique index coded_u on public.coded (c public.code_ops);
alter table public.coded replica identity using index coded_u;
insert into public.coded select i::text::public.code, 'v' from generate_series(1, 50) i;
create table public.coded_full (c public.code, cs public.code[], v text);
alter table public.coded_full replica identity full;
insert into public.coded_full select i::text::public.code, array[i::text]::public.code[], 'v' from generate_series(1, 20) i;
-- names of types and operators of PostgreSQL, in schemas that come before pg_catalog
create schema app;
create domain app.uuid as pg_catalog.text;
create type app.int4 as enum ('one', 'two', 'three');
create type app.record as (a pg_catalog.int4, b app.int4);
create function app.never(pg_catalog.text, pg_catalog.text) returns bool language sql immutable as 'select false';
create operator app.= (leftarg = pg_catalog.text, rightarg = pg_catalog.text, function = app.never);
create function app.never(app.int4, app.int4) returns bool language sql immutable as 'select false';
create operator app.= (leftarg = app.int4, rightarg = app.int4, function = app.never);
create function app.never(app.record, app.record) returns bool language sql immutable as 'select false';
create operator app.= (leftarg = app.record, rightarg = app.record, function = app.never);
create function app.format(pg_catalog.text, variadic "any") returns pg_catalog.text language internal immutable as 'text_format_nv';
create table app.t (u app.uuid, e app.int4, r app.record, v pg_catalog.text, primary key (u, e, r));
insert into app.t select 'u' || i, 'two', row(i, 'one')::app.record, 'v' from generate_series(1, 40) i;
create table app.f (u app.uuid, e app.int4, es app.int4[], r app.record, j json, v pg_catalog.text);
alter table app.f replica identity full;
insert into app.f select 'u' || i, 'two', '{one,two}', row(i, 'one')::app.record, '{}', 'v' from generate_series(1, 20) i;
-- values whose text is empty
create table public.x (id int, x xml, c refcursor, p polygon, v text);
alter table public.x replica identity full;
insert into public.x values (1, null, null, null, 'a'), (1, '', '', null, 'a'), (1, '', null, null, 'a'), (1, null, '', null, 'a');
