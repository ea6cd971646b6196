-- What has to be created before the copy although pg_dump prints it after the data, what has to wait until all tables are copied, and checks
-- that have to wait for the cutover. pg_depend has the reasons (PostgreSQL documentation 5.15).
with recursive
-- keys that a function or a view needs: it groups by them, or names them in ON CONFLICT ON CONSTRAINT
key as (
    select distinct k.oid from pg_depend d join pg_constraint k on k.oid = d.refobjid
     where d.refclassid = 'pg_constraint'::regclass and d.classid in ('pg_proc'::regclass, 'pg_rewrite'::regclass) and k.contype in ('p', 'u', 'x')),
-- everything that cannot exist without one of those keys: pg_dump prints it after the key
after_key(classid, objid) as (
    select d.classid, d.objid from key join pg_depend d on d.refclassid = 'pg_constraint'::regclass and d.refobjid = key.oid
     where d.classid in ('pg_proc'::regclass, 'pg_rewrite'::regclass)
     union
    select e.classid, e.objid from after_key a cross join lateral (
        select d.classid, d.objid from pg_depend d where d.refclassid = a.classid and d.refobjid = a.objid and d.deptype not in ('e', 'x')
         union all
        -- the whole of which it is a part
        select 'pg_class'::regclass::oid, adrelid from pg_attrdef where a.classid = 'pg_attrdef'::regclass and oid = a.objid
         union all
        select 'pg_class'::regclass::oid, ev_class from pg_rewrite where a.classid = 'pg_rewrite'::regclass and oid = a.objid and ev_type = '1'
         union all
        select case when contypid = 0 then 'pg_class'::regclass::oid else 'pg_type'::regclass::oid end, greatest(conrelid, contypid)
          from pg_constraint where a.classid = 'pg_constraint'::regclass and oid = a.objid and contype = 'c'
         union all
        select 'pg_type'::regclass::oid, reltype from pg_class where a.classid = 'pg_class'::regclass and oid = a.objid and relkind = 'c') e),
-- what tables among it need, without their checks, which can be added later
need(classid, objid) as (
    select a.classid, a.objid from after_key a join pg_class c on a.classid = 'pg_class'::regclass and c.oid = a.objid and c.relkind in ('r', 'p', 'f')
     union
    select e.classid, e.objid from need n cross join lateral (
        select d.refclassid as classid, d.refobjid as objid from pg_depend d where d.classid = n.classid and d.objid = n.objid and d.deptype <> 'e'
         union all
        -- its parts
        select 'pg_attrdef'::regclass::oid, oid from pg_attrdef where n.classid = 'pg_class'::regclass and adrelid = n.objid
         union all
        select 'pg_rewrite'::regclass::oid, oid from pg_rewrite where n.classid = 'pg_class'::regclass and ev_class = n.objid and ev_type = '1'
         union all
        select d.classid, d.objid from pg_depend d join pg_sequence s on s.seqrelid = d.objid
         where n.classid = 'pg_class'::regclass and d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = n.objid
         union all
        select 'pg_constraint'::regclass::oid, oid from pg_constraint where n.classid = 'pg_type'::regclass and contypid = n.objid
         union all
        select 'pg_class'::regclass::oid, typrelid from pg_type where n.classid = 'pg_type'::regclass and oid = n.objid and typrelid <> 0) e),
-- indexes of what is created after the copy, and those whose functions may read other tables than their own
late_index(oid) as (
    select d.objid from pg_depend d join pg_class i on i.oid = d.objid and i.relkind in ('i', 'I')
     where d.classid = 'pg_class'::regclass
       and ((d.refclassid, d.refobjid) in (select a.classid, a.objid from after_key a left join pg_class c on a.classid = 'pg_class'::regclass and c.oid = a.objid
                                            where a.classid <> 'pg_constraint'::regclass and coalesce(c.relkind not in ('r', 'p', 'i', 'I'), true))
            or d.refclassid = 'pg_proc'::regclass and exists (
               select from pg_depend r where r.classid = 'pg_proc'::regclass and r.objid = d.refobjid and r.refclassid = 'pg_class'::regclass)))
select 'before copy' as place, n.classid, n.objid, null as name from need n
 where (n.classid, n.objid) in (select classid, objid from after_key) or n.classid = 'pg_constraint'::regclass and n.objid in (select oid from key)
 union
select 'after copy', 'pg_class'::regclass::oid, oid, null from late_index
 union
select 'after copy', 'pg_constraint'::regclass::oid, k.oid, null from late_index l join pg_constraint k on k.conindid = l.oid and k.contype in ('p', 'u', 'x')
 union
-- checks that call a function or an operator of the application, or need something that is created late
select 'cutover', 'pg_class'::regclass::oid, k.conrelid, k.conname::text from pg_constraint k join pg_depend d on d.classid = 'pg_constraint'::regclass and d.objid = k.oid
 where k.contype = 'c' and k.conrelid <> 0
   and ((d.refclassid, d.refobjid) in (select classid, objid from after_key where classid <> 'pg_class'::regclass)
        or d.refclassid in ('pg_proc'::regclass, 'pg_operator'::regclass) and d.refobjid >= 16384 and not exists (
           select from pg_depend m where m.classid = d.refclassid and m.objid = d.refobjid and m.deptype = 'e'))
