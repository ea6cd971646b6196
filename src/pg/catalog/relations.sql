-- User tables and partition roots, the largest first. $1: only these, which may be partitions; null: all that are no partitions.
select c.oid, n.nspname::text as schema, c.relname::text as name, c.relkind = 'p' as partitioned, c.relpersistence = 'u' as unlogged,
       c.relreplident::text as identity, c.relhasrules as has_rules,
       pg_has_role(c.relowner, 'USAGE') as owned,
       (select count(*) from pg_partition_tree(case when c.relkind = 'p' then c.oid end) where relid <> c.oid) as partitions,
       c.relkind = 'r' and c.oid in (select inhrelid from pg_inherits union all select inhparent from pg_inherits) as inherits,
       t.bytes, t.rows, t.updated, t.deleted
  from (select c.oid, coalesce(pg_table_size(c.oid), 0)::bigint as bytes, greatest(c.reltuples, 0)::bigint as rows,
               pg_stat_get_tuples_updated(c.oid) as updated, pg_stat_get_tuples_deleted(c.oid) as deleted
          from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where c.relkind = 'r' and case when $1::oid[] is null then not c.relispartition else c.oid = any($1) end and c.relpersistence <> 't' and /* schemas of the application */ true
        union all
        select root.oid, coalesce(sum(pg_table_size(l.oid)), 0)::bigint, coalesce(sum(greatest(l.reltuples, 0)), 0)::bigint,
               coalesce(sum(pg_stat_get_tuples_updated(l.oid)), 0)::bigint, coalesce(sum(pg_stat_get_tuples_deleted(l.oid)), 0)::bigint
          from pg_class root
          left join lateral (select relid from pg_partition_tree(root.oid) where isleaf) tree on true
          left join pg_class l on l.oid = tree.relid
         where root.relkind = 'p' and case when $1::oid[] is null then not root.relispartition else root.oid = any($1) end and root.relpersistence <> 't' group by root.oid) t
  join pg_class c on c.oid = t.oid
  join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'p') and case when $1::oid[] is null then not c.relispartition else c.oid = any($1) end and c.relpersistence <> 't' and /* schemas of the application */ true
   and not exists (select from pg_depend e where e.classid = 'pg_class'::regclass and e.objid = c.oid and e.deptype = 'e')
 order by t.bytes desc, n.nspname, c.relname
