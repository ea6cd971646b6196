select (with recursive up(oid, n) as (select i.indexrelid, 0 union all select h.inhparent, n + 1 from up join pg_inherits h on h.inhrelid = up.oid)
        select max(n) from up) as nesting,
       (select inhparent::regclass::text from pg_inherits where inhrelid = i.indexrelid) as parent,
       nullif(array_remove(array[
           case when i.indisreplident then format('alter table %s replica identity using index %I', i.indrelid::regclass, ic.relname) end,
           case when i.indisclustered then format('alter table %s cluster on %I', i.indrelid::regclass, ic.relname) end], null), '{}') as marks
  from pg_class ic where ic.oid = i.indexrelid
