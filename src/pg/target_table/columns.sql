-- Columns of tables, with the operator by which their values are equal.
-- Parameters: $1 OIDs of the tables, $2 the operator for types of PostgreSQL without a B-tree operator class.
with base as (
    select b.oid, b.typname::text as name, b.typnamespace = 'pg_catalog'::regnamespace as built_in,
           (select format('operator(%I.%s)', n.nspname, p.oprname)
              from pg_opclass o join pg_am m on m.oid = o.opcmethod
              join pg_amop a on a.amopfamily = o.opcfamily and a.amoplefttype = o.opcintype and a.amoprighttype = o.opcintype and a.amopstrategy = 3
              join pg_operator p on p.oid = a.amopopr join pg_namespace n on n.oid = p.oprnamespace
             where m.amname = 'btree' and o.opcdefault and (o.opcintype = b.oid or o.opcintype = case
                   when b.typelem <> 0 and b.typlen = -1 then 'anyarray'::regtype when b.typtype = 'e' then 'anyenum'::regtype
                   when b.typtype = 'r' then 'anyrange'::regtype when b.typtype = 'm' then 'anymultirange'::regtype end)
             limit 1) as btree_equals
      from pg_type b where b.oid in (
           select case when t.typtype = 'd' then t.typbasetype else t.oid end
             from pg_attribute a join pg_type t on t.oid = a.atttypid where a.attrelid = any($1) and a.attnum > 0 and not a.attisdropped))
select a.attrelid as oid, a.attname::text as name, format_type(a.atttypid, a.atttypmod) as data_type, b.name as base, b.btree_equals,
       case when b.built_in then $2 else '=' end as other_equals,
       coalesce((select not collisdeterministic from pg_collation where oid = a.attcollation), false) as loose
  from pg_attribute a
  join pg_type t on t.oid = a.atttypid
  join base b on b.oid = case when t.typtype = 'd' then t.typbasetype else t.oid end
 where a.attrelid = any($1) and a.attnum > 0 and not a.attisdropped
