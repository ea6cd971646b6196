-- Unique indexes of tables, the primary key first. Parameter: $1 OIDs of the tables.
select i.indrelid as oid, c.relname::text as name, i.indisprimary as is_primary, i.indisreplident as replica_identity,
       i.indexprs is not null as expression, k.columns, con.conname::text as constraint_name,
       exists (select from pg_constraint f where f.contype = 'f' and f.conindid = i.indexrelid) as referenced,
       exists (select from pg_depend d where d.refclassid = 'pg_constraint'::regclass and d.refobjid = con.oid
                  and d.classid in ('pg_proc'::regclass, 'pg_rewrite'::regclass)) as in_query,
       i.indimmediate and i.indisvalid and i.indpred is null and i.indexprs is null and k.not_null and not k.generated as usable
  from pg_index i
  join pg_class c on c.oid = i.indexrelid
  left join pg_constraint con on con.conindid = i.indexrelid and con.contype in ('p', 'u', 'x') and con.conrelid = i.indrelid
  cross join lateral (
       select coalesce(array_agg(a.attname::text order by x.n) filter (where a.attname is not null), '{}') as columns,
              coalesce(bool_and(a.attnotnull), false) as not_null, coalesce(bool_or(a.attgenerated <> ''), false) as generated
         from unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) with ordinality x(attnum, n)
         left join pg_attribute a on a.attrelid = i.indrelid and a.attnum = x.attnum and x.attnum > 0) k
 where i.indrelid = any($1) and i.indisunique
 order by i.indisprimary desc, c.relname
