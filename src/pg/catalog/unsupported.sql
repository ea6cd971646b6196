-- Parameters: $1 publications are created on the target, $2 subscriptions are, $3 comment of publications that are not the application's.
select 'publications' as check, 'PUBLICATION ' || quote_ident(pubname) as object, null as schema, null as name, false as is_created,
       'not created on the target' as reason, 'give --publications, or create it there once the application has moved' as fix
  from pg_publication where not $1::bool and obj_description(oid, 'pg_publication') is distinct from $3::text
union all
select 'subscriptions', 'SUBSCRIPTION ' || quote_ident(subname), null, null, $2 and current_setting('is_superuser') = 'on',
       case when not $2::bool then 'not created on the target: two subscribers would fight for one slot'
            when current_setting('is_superuser') = 'on' then 'created on the target disabled and without its slot, which the one of the source reads'
            else 'not created on the target: only a superuser of the source may read its connection' end,
       case when $2 and current_setting('is_superuser') = 'on'
            then format('before the cutover: alter subscription %I disable on the source; after it the one of the target takes over from where '
                        'that one stopped, as the guide says', subname)
            else 'let it end with the source, then create it there' || case when $2 then '' else '; --subscriptions creates it disabled' end end
  from pg_subscription where subdbid = (select oid from pg_database where datname = current_database())
union all
select 'database settings', 'SETTING ' || setting || ' of the database', null, null, false,
       'not set on the target', 'alter database ... set it there, if it fits'
  from (select unnest(setconfig) as setting from pg_db_role_setting
         where setrole = 0 and setdatabase = (select oid from pg_database where datname = current_database())) s
union all
select 'grants on the database', 'GRANTS on the database', null, null, false,
       'stay on the source: the database and its users may be others on the target', 'grant connect, create and temporary on the target as needed'
  from pg_database where datname = current_database() and datacl is not null
union all
select 'comment on the database', 'COMMENT on the database', null, null, false,
       'stays on the source', 'comment on database ... is ' || quote_literal(shobj_description(oid, 'pg_database'))
  from pg_database where datname = current_database() and shobj_description(oid, 'pg_database') is not null
union all
select 'security labels', 'SECURITY LABELS of ' || provider, null, null, false,
       'stay on the source, ' || count(*) || ' of them', 'security label ... on the target'
  from pg_seclabel group by provider
union all
select 'tablespaces', 'TABLESPACE ' || quote_ident(t.spcname), null, null, false,
       'goes to the default tablespace of the target: ' || string_agg(format('%I.%I', n.nspname, c.relname), ', ' order by n.nspname, c.relname),
       'alter ... set tablespace there after the migration'
  from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_tablespace t on t.oid = c.reltablespace
 where /* schemas of the application */ true group by t.spcname
union all
select 'unlogged tables', 'TABLE ' || format('%I.%I', n.nspname, c.relname), n.nspname::text, c.relname::text, false,
       'unlogged, copied once: later changes are in no stream',
       'alter table ... set logged on the source before the copy, or move what changed by hand after the cutover'
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'r' and c.relpersistence = 'u' and /* schemas of the application */ true
union all
select 'large objects', 'LARGE OBJECTS', null, null, false,
       count(*) || ' of them, copied once with their ids: later changes are in no stream',
       'leave them as they are until the cutover, or move what changed by hand after it'
  from pg_largeobject_metadata having count(*) > 0
union all
select 'rows of extensions', 'EXTENSION ' || quote_ident(e.extname), null, e.extname::text, false,
       'your rows in ' || string_agg(format('%I.%I', n.nspname, c.relname), ', ' order by c.relname) || ' are copied once: later changes do not follow',
       'leave them as they are until the cutover, or move what changed by hand after it'
  from pg_extension e join pg_class c on c.oid = any(e.extconfig) join pg_namespace n on n.oid = c.relnamespace
 where e.extname <> 'timescaledb' group by e.extname
order by 1, 2
