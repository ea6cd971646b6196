-- Objects of the application that only a superuser may create.
with found (class, oid) as (
    select 'pg_type'::regclass, oid from pg_type where typtype = 'b' and typcategory <> 'A'
    union all select 'pg_proc'::regclass, p.oid from pg_proc p join pg_language l on l.oid = p.prolang
               where p.prokind <> 'a' and (p.proleakproof or not l.lanpltrusted and l.lanname <> 'sql')
    union all select 'pg_proc'::regclass, aggfnoid from pg_aggregate where aggtranstype = 'internal'::regtype or aggmtranstype = 'internal'::regtype
    union all select 'pg_opclass'::regclass, oid from pg_opclass union all select 'pg_opfamily'::regclass, oid from pg_opfamily
    union all select 'pg_am'::regclass, oid from pg_am union all select 'pg_language'::regclass, oid from pg_language
    union all select 'pg_cast'::regclass, oid from pg_cast where castmethod = 'b'
    union all select 'pg_foreign_data_wrapper'::regclass, oid from pg_foreign_data_wrapper
    union all select 'pg_event_trigger'::regclass, oid from pg_event_trigger
    union all select 'pg_ts_parser'::regclass, oid from pg_ts_parser union all select 'pg_ts_template'::regclass, oid from pg_ts_template)
select f.class::oid as class, f.oid, i.type || ' ' || i.identity as object
  from found f cross join lateral pg_identify_object(f.class, f.oid, 0) i
 where f.oid >= 16384
   and not exists (select from pg_namespace n where n.nspname = i.schema and not (/* schemas of the application */ true))
   and not exists (select from pg_depend d where d.classid = f.class and d.objid = f.oid and d.deptype = 'e')
 order by 3
