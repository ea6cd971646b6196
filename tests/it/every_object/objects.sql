-- One of every kind of object that pg_dump knows, but for data types (types.sql).
create schema app;
comment on schema app is 'everything that is ours';

create extension hstore with schema public;
create extension citext with schema public;
create extension ltree with schema public;
create extension pg_trgm with schema public;
create extension btree_gist with schema public;
create extension postgres_fdw with schema public;
create extension cube with schema app;
comment on extension cube is 'a comment of our own';

-- collations
create collation app.german from "C";
create collation app.ignore_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
comment on collation app.ignore_case is 'case does not matter';

-- types
create type app.colour as enum ('red', 'green', 'deep blue');
alter type app.colour add value 'yellow' before 'green';
create type app.point3 as (x int, y int, z numeric(10, 2));
create type app.line3 as (name text collate app.german, a app.point3, b app.point3[]);
create type app.float_range as range (subtype = float8, subtype_diff = float8mi, multirange_type_name = app.float_ranges);
create domain app.positive as int not null check (value > 0);
create domain app.code as text collate "C" default 'x' constraint code_form check (value ~ '^[a-z]+$');
create domain app.codes as app.code[];
comment on domain app.code is 'lower case';
comment on constraint code_form on domain app.code is 'of the domain';
comment on type app.colour is 'colours';
comment on column app.point3.x is 'first';
create type app.shell;

-- functions
create function app.helper(a text) returns text language sql immutable strict parallel safe cost 7 as $$ select lower(a) $$;
create function app.atomic(n int) returns int language sql begin atomic select n + 1; select n + 2; end;
create function app.set_of(n int, out a int, out b text) returns setof record language plpgsql rows 33 security definer set search_path = app, pg_temp
  set work_mem = '4MB' as $body$ begin return query select i, 'it''s $$ ' || i from generate_series(1, n) i; end $body$;
create function app.variadic_one(prefix text default 'a', variadic others text[] default '{}') returns text language sql as $$ select prefix || array_to_string(others, ',') $$;
create procedure app.do_it(inout n int) language plpgsql as $$ begin n := n + 1; commit; end $$;
create function app.grow(numeric, numeric) returns numeric language sql immutable as 'select coalesce($1, 0) + $2';
create aggregate app.total(numeric) (sfunc = app.grow, stype = numeric, initcond = '0', parallel = safe);
create aggregate app.share(float8 order by anyelement) (sfunc = ordered_set_transition, stype = internal, finalfunc = percentile_disc_final, finalfunc_extra);
comment on function app.helper(text) is 'helps';
comment on procedure app.do_it(int) is 'does it';
comment on aggregate app.total(numeric) is 'adds';

-- operators and their classes
create function app.same_parity(int, int) returns bool language sql immutable as 'select $1 % 2 = $2 % 2';
create operator app.=%= (function = app.same_parity, leftarg = int, rightarg = int, commutator = operator(app.=%=));
create operator family app.by_size using btree;
create function app.compare_length(text, text) returns int language sql immutable as 'select length($1) - length($2)';
create function app.shorter(text, text) returns bool language sql immutable as 'select length($1) < length($2)';
create function app.not_longer(text, text) returns bool language sql immutable as 'select length($1) <= length($2)';
create function app.as_long(text, text) returns bool language sql immutable as 'select length($1) = length($2)';
create function app.not_shorter(text, text) returns bool language sql immutable as 'select length($1) >= length($2)';
create function app.longer(text, text) returns bool language sql immutable as 'select length($1) > length($2)';
create operator app.<# (function = app.shorter, leftarg = text, rightarg = text);
create operator app.<=# (function = app.not_longer, leftarg = text, rightarg = text);
create operator app.=# (function = app.as_long, leftarg = text, rightarg = text);
create operator app.>=# (function = app.not_shorter, leftarg = text, rightarg = text);
create operator app.># (function = app.longer, leftarg = text, rightarg = text);
create operator class app.length_ops for type text using btree family app.by_size as
  operator 1 app.<#, operator 2 app.<=#, operator 3 app.=#, operator 4 app.>=#, operator 5 app.>#, function 1 app.compare_length(text, text);
comment on operator app.=%= (int, int) is 'parity';
comment on operator class app.length_ops using btree is 'by length';
comment on operator family app.by_size using btree is 'family';

-- casts, conversions, transforms, access methods, languages
create function app.to_colour(int) returns app.colour language sql immutable as $$ select (array['red', 'yellow', 'green', 'deep blue'])[$1]::app.colour $$;
create cast (int as app.colour) with function app.to_colour(int) as assignment;
comment on cast (int as app.colour) is 'by number';
create conversion app.latin for 'LATIN1' to 'UTF8' from iso8859_1_to_utf8;
create access method heap2 type table handler heap_tableam_handler;
comment on access method heap2 is 'heap by another name';
create function app.plother_call() returns language_handler language c as '$libdir/plpgsql', 'plpgsql_call_handler';
create function app.plother_inline(internal) returns void language c strict as '$libdir/plpgsql', 'plpgsql_inline_handler';
create function app.plother_validator(oid) returns void language c strict as '$libdir/plpgsql', 'plpgsql_validator';
create trusted language plother handler app.plother_call inline app.plother_inline validator app.plother_validator;
create function app.from_sql(internal) returns internal language internal immutable strict as 'prsd_lextype';
create transform for app.colour language plother (from sql with function app.from_sql(internal));
create function app.in_plother(c app.colour) returns int language plother transform for type app.colour as $$ begin return 1; end $$;

-- text search
create text search dictionary app.simple_words (template = simple, stopwords = english);
create text search configuration app.words (parser = pg_catalog."default");
alter text search configuration app.words add mapping for asciiword, word with app.simple_words, english_stem;
create text search parser app.words_parser (start = prsd_start, gettoken = prsd_nexttoken, end = prsd_end, lextypes = prsd_lextype);
create text search template app.words_template (init = dsimple_init, lexize = dsimple_lexize);
comment on text search configuration app.words is 'words';

-- tables
create table app.plain (
  id bigint generated always as identity (start with 1000 increment by 5 cache 3) primary key,
  code app.code,
  size app.positive default 3,
  colour app.colour default 'deep blue',
  body text compression pglz,
  doubled int generated always as (size * 2) stored,
  note text collate app.ignore_case,
  constraint size_limit check (size < 1000000) no inherit
) with (fillfactor = 70, autovacuum_enabled = true, toast.autovacuum_vacuum_threshold = 77);
alter table app.plain alter column body set storage external, alter column code set statistics 777, alter column body set (n_distinct = -0.5);
comment on table app.plain is E'a table with ''quotes'' and\na second line';
comment on column app.plain.code is 'the code';
comment on constraint size_limit on app.plain is 'not too large';
insert into app.plain (code, size, body, note) select 'abc', i, repeat('x', 3000), 'Note ' || i from generate_series(1, 200) i;
create index plain_note on app.plain using btree (note desc nulls last) include (size) with (fillfactor = 50) where size > 10;
create index plain_trgm on app.plain using gin (body public.gin_trgm_ops);
create index plain_length on app.plain ((left(body, 100)) app.length_ops);
create index plain_expression on app.plain ((size % 7), lower(code));
alter index app.plain_expression alter column 1 set statistics 333;
comment on index app.plain_note is 'an index';
create unique index plain_nulls on app.plain (note) nulls not distinct;
alter table app.plain cluster on plain_pkey;
create statistics app.plain_both (ndistinct, dependencies, mcv) on size, colour from app.plain;
create statistics app.plain_expressed on (size % 3), (lower(code)) from app.plain;
alter statistics app.plain_both set statistics 444;
comment on statistics app.plain_both is 'both';

-- a check that rows from before do not satisfy, of the table and of a domain
create domain app.later as int;
create table app.invalid_yet (id int primary key, n int, d app.later);
insert into app.invalid_yet select i, -i, -i from generate_series(1, 10) i;
alter table app.invalid_yet add constraint n_positive check (n > 0) not valid;
comment on constraint n_positive on app.invalid_yet is 'some time';
alter domain app.later add constraint later_positive check (value > 0) not valid;
comment on constraint later_positive on domain app.later is 'some time, too';

create table app.by_default (id int generated by default as identity primary key, v text);
create table app.both_names ("select" int, "order by" text, constraint "both pkey" primary key ("select"));
create table app.other_method (id int primary key, v text) using heap2;
insert into app.other_method values (1, 'a');
create unlogged table app.unlogged (id int primary key, v text);
insert into app.unlogged select i, 'u' || i from generate_series(1, 50) i;
create unlogged sequence app.unlogged_sequence;
create table app.no_columns ();
insert into app.no_columns default values;
insert into app.no_columns default values;
create table app.dropped (gone int, a text, also int, b int primary key);
alter table app.dropped drop column gone, drop column also;
alter table app.dropped add column c int default 7;
insert into app.dropped select 'a' || i, i from generate_series(1, 20) i;
create table app.typed of app.point3 (primary key (x));
insert into app.typed values (1, 2, 3.5);
create table app.nothing_unique (v text);
alter table app.nothing_unique replica identity full;
insert into app.nothing_unique values ('a'), ('a'), (null);
create table app.deferred_key (id int primary key deferrable initially deferred, n int not null, constraint deferred_n unique (n) deferrable);
create unique index deferred_identity on app.deferred_key (n);
alter table app.deferred_key replica identity using index deferred_identity;
insert into app.deferred_key select i, i from generate_series(1, 20) i;
create table app.excluded (
  id int primary key, room int, during tstzrange, constraint no_overlap exclude using gist (room with =, during with &&) where (room > 0) deferrable);
insert into app.excluded values (1, 1, '[2026-01-01, 2026-01-02)'), (2, 1, '[2026-01-02, 2026-01-03)');
comment on constraint no_overlap on app.excluded is 'one at a time';
create table app.key_with_include (a int, b text, c int, primary key (a, b) include (c));
insert into app.key_with_include select i, 'b', i from generate_series(1, 9) i;

-- partitions
create table app.events (id int not null, kind text not null, at date not null, v text, primary key (id, kind, at)) partition by list (kind);
create table app.events_a partition of app.events for values in ('a', 'aa') partition by range (at);
create table app.events_a_2025 partition of app.events_a for values from (minvalue) to ('2026-01-01');
create table app.events_a_2026 partition of app.events_a for values from ('2026-01-01') to ('2027-01-01') with (fillfactor = 60);
create table app.events_b partition of app.events for values in ('b') partition by hash (id);
create table app.events_b_0 partition of app.events_b for values with (modulus 2, remainder 0);
create table app.events_b_1 (kind text not null, at date not null, v text, extra_gone int, id int not null);
alter table app.events_b_1 drop column extra_gone;
alter table app.events_b attach partition app.events_b_1 for values with (modulus 2, remainder 1);
create table app.events_rest partition of app.events default;
create index events_v on app.events (v);
create index events_rest_own on app.events_rest (lower(v));
alter table app.events_rest alter column v set default 'rest';
comment on table app.events_rest is 'what is left';
insert into app.events select i, (array['a', 'aa', 'b', 'zz'])[i % 4 + 1], date '2025-12-25' + i % 20, 'v' || i from generate_series(1, 200) i;

-- inheritance, from several parents
create table app.parent (id int primary key, v text, constraint v_given check (v <> ''));
create table app.other_parent (id int not null, w text default 'w');
create table app.child (extra int, primary key (id)) inherits (app.parent, app.other_parent);
create table app.grandchild (constraint grand primary key (id)) inherits (app.child);
alter table app.child alter column v set default 'child';
alter table app.other_parent add primary key (id);
insert into app.parent values (1, 'p');
insert into app.other_parent values (2, 'o');
insert into app.child (id, extra) values (3, 3);
insert into app.grandchild (id, v) values (4, 'g');

-- foreign keys: cycles, to itself, deferred, not valid, of partitions
create table app.boss (id int primary key, department int, boss int references app.boss on delete set null);
create table app.department (id int primary key, head int not null, constraint head_fk foreign key (head) references app.boss deferrable initially deferred);
alter table app.boss add constraint department_fk foreign key (department) references app.department on update cascade on delete restrict deferrable;
comment on constraint department_fk on app.boss is 'round and round';
begin;
set constraints all deferred;
insert into app.department select i, i from generate_series(1, 10) i;
insert into app.boss select i, i, nullif(i - 1, 0) from generate_series(1, 10) i;
commit;
create table app.orphans (id int primary key, boss int, a int, b text);
insert into app.orphans select i, 1000 + i, i, 'b' from generate_series(1, 9) i;
alter table app.orphans add constraint orphan_fk foreign key (boss) references app.boss not valid;
alter table app.orphans add constraint pair_fk foreign key (a, b) references app.key_with_include match full on delete set null;
create table app.event_notes (id int primary key, event int, kind text, at date, constraint note_fk foreign key (event, kind, at) references app.events);
insert into app.event_notes select id, id, kind, at from app.events where id < 20;

-- sequences of all kinds
create sequence app.plain_sequence;
create sequence app.cycling as smallint minvalue -5 maxvalue 5 start 4 increment 1 cycle;
create sequence app.descending increment -3 maxvalue -1 minvalue -1000000 cache 10;
create sequence app.never_called start 77;
create sequence app.set_back start 500;
create sequence app.owned owned by app.by_default.v;
comment on sequence app.owned is 'owned';
select nextval('app.plain_sequence') from generate_series(1, 40);
select nextval('app.cycling') from generate_series(1, 4);
select nextval('app.descending') from generate_series(1, 7);
select setval('app.set_back', 3, false);

-- views
create view app.simple_view as select id, code from app.plain where size > 3 with local check option;
create view app.barrier with (security_barrier = true, security_invoker = true) as select * from app.simple_view;
alter view app.simple_view alter column code set default 'byview';
create recursive view app.counting (n) as values (1) union all select n + 1 from counting where n < 10;
create view app.grouped as select p.id, p.code, count(*) from app.plain p join app.by_default b on true group by p.id;
create view app.on_function as select * from app.set_of(3);
create function app.of_view(v app.simple_view) returns text language sql as $$ select v.code $$;
create function app.of_key(i bigint) returns bigint language sql begin atomic select p.id from app.plain p where p.id = i group by p.id; end;
comment on view app.barrier is 'guards';
comment on column app.simple_view.code is 'of the view';

-- materialised views: on each other, with indexes, unpopulated, and through a function that counts on the search_path
create materialized view app.by_colour with (fillfactor = 90) as select colour, count(*) as n from app.plain group by colour;
create unique index by_colour_key on app.by_colour (colour);
create materialized view app.a_on_top as select sum(n) as all_of_them from app.by_colour;
create view app.between_them as select all_of_them + 1 as more from app.a_on_top;
create materialized view app.a_above as select more from app.between_them;
create materialized view app.empty_yet as select 1 as one with no data;
create materialized view app.other_heap using heap2 as select 2 as two;
create materialized view app.grouped_by_key as select p.id, p.code, count(*) from app.plain p group by p.id;
comment on materialized view app.by_colour is 'counts';
create function app.unqualified() returns bigint language plpgsql stable as $$ begin return (select count(*) from plain); end $$;
create function app.hidden() returns bigint language plpgsql stable as $$ begin return (select all_of_them from app.a_on_top); end $$;
set search_path = app, public;
create materialized view app.a_counts_on_path as select app.unqualified() as n;
create materialized view app.a_a_hidden as select app.hidden() as n;
create function app.folded(t text) returns text language plpgsql immutable as $$ begin return helper(t); end $$;
create table app.index_on_path (id int primary key, v text);
insert into app.index_on_path select i, 'V' || i from generate_series(1, 10) i;
create index index_on_path_folded on app.index_on_path (app.folded(v));
reset search_path;

-- rules and triggers
create table app.audit (id bigint generated always as identity primary key, what text, at timestamptz default now());
create function app.audited() returns trigger language plpgsql as $$ begin insert into app.audit (what) values (tg_name || ' ' || tg_op); return coalesce(new, old); end $$;
create table app.triggered (id int primary key, v text, n int);
insert into app.triggered select i, 'v' || i, i from generate_series(1, 30) i;
create trigger on_insert before insert on app.triggered for each row execute function app.audited();
create trigger on_update after update of v, n on app.triggered for each row when (old.v is distinct from new.v) execute function app.audited('with', 'it''s arguments');
create trigger disabled_one after delete on app.triggered for each row execute function app.audited();
create trigger replica_one after insert on app.triggered for each row execute function app.audited();
create trigger always_one after insert on app.triggered for each statement execute function app.audited();
create trigger transitions after insert on app.triggered referencing new table as fresh for each statement execute function app.audited();
create constraint trigger constrained after insert on app.triggered deferrable initially deferred for each row execute function app.audited();
alter table app.triggered disable trigger disabled_one, enable replica trigger replica_one, enable always trigger always_one;
comment on trigger on_insert on app.triggered is 'before';
alter trigger on_update on app.triggered depends on extension hstore;
create trigger on_event after insert on app.events for each row execute function app.audited();
alter table app.events_rest disable trigger on_event;
alter table app.events_a_2026 enable always trigger on_event;
create trigger instead instead of insert on app.barrier for each row execute function app.audited();
create rule no_delete as on delete to app.triggered where old.id < 5 do instead nothing;
create rule also as on update to app.triggered do also (select 1; select 2);
alter table app.triggered enable always rule also;
create rule view_update as on update to app.grouped do instead update app.plain set code = new.code where id = old.id;
comment on rule also on app.triggered is 'also';

-- row level security
create table app.guarded (id int primary key, owner text, v text);
insert into app.guarded select i, 'o' || i, 'v' from generate_series(1, 20) i;
alter table app.guarded enable row level security, force row level security;
create policy own_rows on app.guarded as permissive for select to reader, "App User" using (owner = current_user);
create policy writing on app.guarded as restrictive for update using (true) with check (v <> 'x');
comment on policy own_rows on app.guarded is 'own';

-- foreign data
create server elsewhere type 'pg' version '15' foreign data wrapper postgres_fdw options (host '127.0.0.1', port '1', dbname 'nowhere');
create user mapping for reader server elsewhere options (user 'reader', password 'a password''of reader');
create user mapping for public server elsewhere options (user 'everybody', password_required 'false');
create foreign table app.far (id int options (column_name 'far_id') not null, v text) server elsewhere options (schema_name 'x', table_name 'far');
create foreign data wrapper own_wrapper options (debug 'true');
comment on foreign table app.far is 'far away';
comment on server elsewhere is 'a server';

-- default privileges, owners, grants
alter default privileges in schema app grant select on tables to reader;
alter default privileges for role owner_role grant execute on functions to "App User";
grant usage on schema app to reader, "App User", owner_role;
grant create on schema app to owner_role;
grant select on app.plain to public;
grant select (id, v), update (v) on app.by_default to reader;
grant usage on type app.colour to reader;
revoke usage on type app.point3 from public;
grant execute on function app.helper(text) to reader with grant option;
revoke execute on procedure app.do_it(int) from public;
grant usage, select on sequence app.plain_sequence to "App User";
grant usage on foreign server elsewhere to reader;
grant usage on foreign data wrapper own_wrapper to reader;
grant usage on language plother to reader;
grant insert on app.audit to only_here;
alter table app.by_default owner to owner_role;
alter function app.helper(text) owner to owner_role;
alter type app.colour owner to owner_role;
alter view app.simple_view owner to owner_role;
alter materialized view app.a_on_top owner to owner_role;
alter schema app owner to owner_role;
alter table app.dropped owner to only_here;
alter aggregate app.total(numeric) owner to owner_role;
alter operator app.=%= (int, int) owner to owner_role;
alter text search configuration app.words owner to owner_role;
alter server elsewhere owner to owner_role;
grant select on app.by_colour to owner_role;
grant select on app.plain to "App User" with grant option;
set session authorization "App User";
grant select on app.plain to reader;
reset session authorization;

-- large objects
select lo_from_bytea(4711, convert_to(repeat('large ', 300000), 'UTF8'));
select lo_create(4712);
select lo_from_bytea(4713, '\x00ff10');
grant select on large object 4713 to reader;
alter large object 4713 owner to owner_role;
comment on large object 4713 is 'three bytes';
create table app.with_large (id int primary key, content oid, of_table regclass, of_type regtype, by_function regprocedure, of_role regrole, x xid8);
insert into app.with_large values (1, 4711, 'app.plain', 'app.colour', 'app.helper(text)', 'reader', '123456789012');

-- an event trigger, publications and a subscription
create function app.on_ddl() returns event_trigger language plpgsql as $$ begin insert into app.audit (what) values (tg_tag); end $$;
create event trigger watch_ddl on ddl_command_end when tag in ('CREATE TABLE', 'DROP TABLE') execute function app.on_ddl();
create event trigger watch_drop on sql_drop when tag in ('DROP TABLE') execute function app.on_ddl();
alter event trigger watch_drop enable always;
comment on event trigger watch_ddl is 'watches';
create publication app_changes for table app.plain, app.parent with (publish = 'insert');
create publication everything for tables in schema app;
alter publication app_changes add table app.triggered (id, v) where (id > 5);
comment on publication app_changes is 'inserts';
alter publication everything owner to admin_role;
create subscription from_elsewhere connection 'host=127.0.0.1 port=1 dbname=x password=hidden' publication nothing with (connect = false);
comment on subscription from_elsewhere is 'of a feed';

-- rows of an extension's configuration
create table public.extension_settings (name text primary key, value text);
create sequence public.extension_sequence;
alter extension hstore add table public.extension_settings;
alter extension hstore add sequence public.extension_sequence;
insert into public.extension_settings values ('standard', 'as installed'), ('own', 'of the user');
select nextval('public.extension_sequence') from generate_series(1, 12);
update pg_extension set extconfig = array['public.extension_settings'::regclass, 'public.extension_sequence'::regclass]::oid[],
  extcondition = array['where name <> ''standard''', ''] where extname = 'hstore';

refresh materialized view app.by_colour;
refresh materialized view app.a_on_top;
refresh materialized view app.a_above;

-- what new sessions of this database begin with
do $$ begin
  execute format('alter database %I set search_path = app, public', current_database());
  execute format('alter database %I set statement_timeout = ''10min''', current_database());
  execute format('grant temporary on database %I to reader', current_database());
  execute format('comment on database %I is ''of everything''', current_database());
end $$;
