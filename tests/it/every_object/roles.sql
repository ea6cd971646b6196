-- Roles, memberships and settings of a cluster.
create role owner_role nologin createdb;
create role "App User" login password 'secret' connection limit 7 valid until '2030-01-01 00:00:00+00';
create role reader nologin noinherit;
create role admin_role login superuser replication bypassrls;
create role only_here login;
comment on role reader is 'may read';
grant reader to "App User" with admin option;
grant reader to owner_role granted by "App User";
grant pg_read_all_data to reader;
alter role "App User" set search_path = app, "$user", public;
alter role "App User" set statement_timeout = '5min';
alter role reader set work_mem = '8MB';
