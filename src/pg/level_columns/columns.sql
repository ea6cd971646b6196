select a.attname::text as name, format_type(a.atttypid, a.atttypmod) as data_type,
       case when exists (select from pg_depend e where e.classid = 'pg_type'::regclass and e.objid = a.atttypid and e.deptype = 'e')
            then regexp_replace(format_type(a.atttypid, a.atttypmod), '^("([^"]|"")*"|[^".]*)\.', '')
            else format_type(a.atttypid, a.atttypmod) end as compared_type,
       (select format('%I.%I', n.nspname, o.collname) from pg_collation o join pg_namespace n on n.oid = o.collnamespace
         where o.oid = a.attcollation and a.attcollation <> t.typcollation) as collation,
       a.attgenerated::text as generated, a.attidentity::text as identity, pg_get_expr(d.adbin, d.adrelid) as expression, a.attnotnull as not_null,
       array_remove(array[
           case when a.attstorage <> t.typstorage
                then 'set storage ' || case a.attstorage when 'p' then 'plain' when 'e' then 'external' when 'm' then 'main' else 'extended' end end,
           case when a.attstattarget >= 0 then 'set statistics ' || a.attstattarget end,
           {compression},
           -- All that PostgreSQL documents: a server may keep more of its own here.
           (select 'set (' || string_agg(o, ', ' order by o) || ')' from unnest(a.attoptions) o where o ~ '^n_distinct(_inherited)?=')], null) as settings,
       col_description(a.attrelid, a.attnum) as comment,
       s.names as sequences, s.options as sequence_options, s.kinds as sequence_kinds, l.names as leaves, l.actions as leaf_actions
  from pg_attribute a join pg_type t on t.oid = a.atttypid left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
 cross join lateral (
       select array_agg(format('%I.%I', n.nspname, c.relname) order by c.oid) as names, array_agg(own.kind order by c.oid) as kinds,
              array_agg(format('as %s start with %s increment by %s minvalue %s maxvalue %s cache %s%s', format_type(q.seqtypid, null), q.seqstart,
                               q.seqincrement, q.seqmin, q.seqmax, q.seqcache, case when q.seqcycle then ' cycle' else '' end) order by c.oid) as options
         from (select objid as oid, min(deptype::text) as kind
                 from (select objid, deptype from pg_depend
                        where classid = 'pg_class'::regclass and refclassid = 'pg_class'::regclass and refobjid = a.attrelid and refobjsubid = a.attnum
                          and deptype in ('a', 'i')
                       union all
                       select refobjid, 'n' from pg_depend where classid = 'pg_attrdef'::regclass and objid = d.oid and refclassid = 'pg_class'::regclass) u
                group by objid) own
         join pg_class c on c.oid = own.oid and c.relkind = 'S' join pg_namespace n on n.oid = c.relnamespace join pg_sequence q on q.seqrelid = c.oid) s
 cross join lateral (
       select array_agg(format('%I.%I', n.nspname, c.relname) order by c.oid) as names, array_agg(own.action order by c.oid) as actions
         from pg_partition_tree(a.attrelid) p join pg_class c on c.oid = p.relid join pg_namespace n on n.oid = c.relnamespace
         join pg_attribute b on b.attrelid = c.oid and b.attname = a.attname and not b.attisdropped
         left join pg_attrdef e on e.adrelid = b.attrelid and e.adnum = b.attnum
        cross join lateral (
              select case when e.adbin is null then 'drop default' else 'set default ' || pg_get_expr(e.adbin, e.adrelid) end as action
               where a.attgenerated = '' and a.attidentity = '' and b.attidentity = ''
                 and pg_get_expr(d.adbin, d.adrelid) is distinct from pg_get_expr(e.adbin, e.adrelid)
              union all
              select 'set not null' where b.attnotnull and not a.attnotnull) own
        where c.relkind in ('r', 'p') and c.oid <> a.attrelid) l
 where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped
 order by a.attnum
