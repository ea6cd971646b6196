-- What has to be dropped before columns of table $1 can be, and how it is made again. $2: the names of the columns; NULL: all of them.
with recursive tree(oid) as (
    select $1::oid
    union
    select i.inhrelid from pg_inherits i join tree on i.inhparent = tree.oid join pg_class c on c.oid = i.inhrelid and c.relispartition),
columns as (
    select a.attrelid, a.attnum from tree join pg_attribute a on a.attrelid = tree.oid
     where a.attnum > 0 and not a.attisdropped and ($2::text[] is null or a.attname::text = any ($2))),
-- Each dependency as an edge between the objects that can be made again: a rule is its view, and the index of a constraint its constraint.
edge as (
    select case when d.classid = 'pg_rewrite'::regclass then 'pg_class'::regclass::oid
                when k.oid is not null then 'pg_constraint'::regclass::oid else d.classid end as classid,
           coalesce(r.ev_class, k.oid, d.objid) as objid,
           case when rk.oid is not null then 'pg_constraint'::regclass::oid when rt.oid is not null then 'pg_class'::regclass::oid else d.refclassid end as refclassid,
           coalesce(rk.oid, rt.typrelid, d.refobjid) as refobjid, d.refobjsubid
      from pg_depend d
      left join pg_rewrite r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
      left join pg_constraint k on d.classid = 'pg_class'::regclass and k.conindid = d.objid and k.contype in ('p', 'u', 'x')
      left join pg_constraint rk on d.refclassid = 'pg_class'::regclass and rk.conindid = d.refobjid and rk.contype in ('p', 'u', 'x')
      left join pg_type rt on d.refclassid = 'pg_type'::regclass and rt.oid = d.refobjid and rt.typrelid <> 0
     where d.deptype in ('n', 'a') and d.classid in ('pg_rewrite'::regclass, 'pg_constraint'::regclass, 'pg_class'::regclass, 'pg_proc'::regclass, 'pg_statistic_ext'::regclass)),
found(classid, objid, depth) as (
    select e.classid, e.objid, 1 from edge e join columns c on e.refclassid = 'pg_class'::regclass and e.refobjid = c.attrelid and e.refobjsubid = c.attnum
     where e.objid not in (select oid from tree)
    union
    select e.classid, e.objid, f.depth + 1 from found f join edge e on e.refclassid = f.classid and e.refobjid = f.objid
     where (e.classid, e.objid) <> (f.classid, f.objid) and f.depth < 100),
deepest as (select classid, objid, max(depth) as depth from found group by classid, objid),
object as (
    -- views
    select f.depth, 0 as nesting, c.oid, case c.relkind when 'm' then 'materialized view' else 'view' end as kind, v.name as identity,
           null::oid as relation, null::text as parent,
           array[case c.relkind when 'm' then 'create materialized view ' else 'create view ' end || v.name
                 || coalesce(' with (' || array_to_string(c.reloptions, ', ') || ')', '') || ' as '
                 || rtrim(pg_get_viewdef(c.oid), ';') || case c.relkind when 'm' then ' with no data' else '' end] as create,
           (select array_agg(format('alter view %s alter column %I set default %s', v.name, a.attname, pg_get_expr(d.adbin, d.adrelid)))
              from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum where d.adrelid = c.oid)
           || (select array_agg(format('comment on column %s.%I is %L', v.name, a.attname, m.description))
                 from pg_description m join pg_attribute a on a.attrelid = m.objoid and a.attnum = m.objsubid
                where m.classoid = 'pg_class'::regclass and m.objoid = c.oid and m.objsubid > 0) as more
      from deepest f join pg_class c on f.classid = 'pg_class'::regclass and c.oid = f.objid and c.relkind in ('v', 'm')
      join pg_namespace n on n.oid = c.relnamespace cross join lateral (select format('%I.%I', n.nspname, c.relname) as name) v
    union all
    -- functions whose body is kept as parsed
    select f.depth, 0, p.oid, case p.prokind when 'p' then 'procedure' else 'function' end, p.oid::regprocedure::text, null, null, array[pg_get_functiondef(p.oid)], null
      from deepest f join pg_proc p on f.classid = 'pg_proc'::regclass and p.oid = f.objid and p.prokind in ('f', 'p')
    union all
    -- indexes
    select f.depth, x.nesting, c.oid, 'index', format('%I.%I', n.nspname, c.relname), i.indrelid, x.parent, array[pg_get_indexdef(c.oid)], x.marks
      from deepest f join pg_class c on f.classid = 'pg_class'::regclass and c.oid = f.objid and c.relkind in ('i', 'I') join pg_namespace n on n.oid = c.relnamespace
      join pg_index i on i.indexrelid = c.oid cross join lateral ({index}) x
    union all
    -- constraints
    select f.depth, coalesce(x.nesting, case when k.coninhcount > 0 or k.conparentid <> 0 then 1 else 0 end), k.oid, 'constraint', format('%I on ', k.conname) || k.conrelid::regclass,
           k.conrelid, x.parent,
           array[format('alter table %s%s add constraint %I %s', case when k.contype in ('p', 'u', 'x') and r.relkind = 'p' then 'only ' else '' end, k.conrelid::regclass, k.conname,
                        pg_get_constraintdef(k.oid))], x.marks
      from deepest f join pg_constraint k on f.classid = 'pg_constraint'::regclass and k.oid = f.objid and k.contype in ('c', 'p', 'u', 'x', 'f') and k.conrelid <> 0
      join pg_class r on r.oid = k.conrelid left join pg_index i on i.indexrelid = k.conindid and k.contype in ('p', 'u', 'x')
      left join lateral ({index}) x on i.indexrelid is not null
    union all
    -- extended statistics
    select f.depth, 0, s.oid, 'statistics', format('%I.%I', n.nspname, s.stxname), s.stxrelid, null, array[pg_get_statisticsobjdef(s.oid)], null
      from deepest f join pg_statistic_ext s on f.classid = 'pg_statistic_ext'::regclass and s.oid = f.objid join pg_namespace n on n.oid = s.stxnamespace)
select o.kind, o.identity, o.depth, o.nesting, o.parent, i.name as index,
       o.create || o.more
       || case when o.nesting > 0 and o.parent is not null then array[format('alter index %s attach partition %s', o.parent, i.name)] end
       || case when m.text is not null then array[format('comment on %s %s is %L', o.kind, o.identity, m.text)] end as create
  from object o cross join lateral (
       select case o.kind when 'index' then o.identity when 'constraint' then (select conindid::regclass::text from pg_constraint where oid = o.oid) end as name) i
 cross join lateral (
       select obj_description(o.oid, case when o.kind in ('function', 'procedure') then 'pg_proc' when o.kind = 'constraint' then 'pg_constraint'
                                          when o.kind = 'statistics' then 'pg_statistic_ext' else 'pg_class' end) as text) m
 order by o.depth, o.nesting, o.oid
