-- Partitions that are tables of this server and either have no usable replica identity, or one that may repeat in another partition.
-- Parameters: $1 OIDs of the roots, $2 REPLICA IDENTITY FULL makes updates of tables with generated columns fail.
select r.root, n.nspname::text as schema, l.relname::text as name, i.bare, i.repeats
  from unnest($1::oid[]) r(root)
 cross join lateral (select relid from pg_partition_tree(r.root) where isleaf) tree
  join pg_class l on l.oid = tree.relid and l.relkind = 'r'
  join pg_namespace n on n.oid = l.relnamespace
  left join lateral (
       select k.indimmediate and k.indisvalid as fits, (k.indkey::int2[])[0:k.indnkeyatts - 1] as columns
         from pg_index k
        where k.indrelid = l.oid and case l.relreplident when 'd' then k.indisprimary when 'i' then k.indisreplident else false end) key on true
 cross join lateral (
       select case l.relreplident
              when 'n' then true
              when 'f' then $2::bool and exists (select from pg_attribute a where a.attrelid = l.oid and a.attgenerated <> '' and not a.attisdropped)
              else coalesce(not key.fits, true)
                   or exists (select from pg_attribute a where a.attrelid = l.oid and a.attnum = any(key.columns) and a.attgenerated <> '')
              end as bare,
              -- Some column by which a root above it is partitioned is not part of its key.
              l.relreplident in ('d', 'i') and exists (
                  select from pg_partition_ancestors(l.oid) above
                    join pg_partitioned_table p on p.partrelid = above.relid
                   cross join unnest(p.partattrs::int2[]) by(attnum)
                    left join pg_attribute a on a.attrelid = p.partrelid and a.attnum = by.attnum and by.attnum > 0
                   where a.attname is null
                      or not exists (select from pg_attribute own
                                      where own.attrelid = l.oid and own.attname = a.attname and own.attnum = any(key.columns))) as repeats) i
 where i.bare or i.repeats
 order by r.root, n.nspname, l.relname
