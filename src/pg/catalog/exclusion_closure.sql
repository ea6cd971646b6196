-- Everything that depends on the seeds, and why.
-- Parameters: $1 and $2 OIDs of the seeds (catalog, row), $3 tables that are kept, $4 publications are migrated.
with recursive kept as (select o as oid from unnest($3::oid[]) o),
seed as (select c as classid, o as objid from unnest($1::oid[], $2::oid[]) as s(c, o)),
-- sequences that defaults of kept tables count with
counting as (
    select d.refobjid as oid from pg_depend d join pg_attrdef a on a.oid = d.objid
     where d.classid = 'pg_attrdef'::regclass and d.refclassid = 'pg_class'::regclass and a.adrelid in (select oid from kept)
       and d.refobjid in (select seqrelid from pg_sequence)),
gone(classid, objid) as (
    select classid, objid from seed
     union
    select e.classid, e.objid from gone cross join lateral (
        select d.classid, d.objid from pg_depend d
         where d.refclassid = gone.classid and d.refobjid = gone.objid and d.deptype <> 'p'
           and not (d.classid = 'pg_class'::regclass and d.deptype = 'a' and d.objid in (select oid from counting))
         union all
        -- the whole of which it is a part: the view of a rule, the constraint of an index
        select d.refclassid, d.refobjid from pg_depend d
         where d.classid = gone.classid and d.objid = gone.objid and d.deptype = 'i') e),
edge as (
    select d.classid, d.objid, d.refclassid, d.refobjid, d.deptype
      from gone g join pg_depend d on d.classid = g.classid and d.objid = g.objid
      join gone p on p.classid = d.refclassid and p.objid = d.refobjid),
part as (
    select classid, objid, bool_or(deptype = 'i') as is_inner, bool_or(deptype in ('a', 'P')) as is_part from edge group by 1, 2),
-- its own reason, or that of the rule which makes a view of it
reason as (
    select classid, objid, refclassid, refobjid, case deptype when 'a' then 1 when 'P' then 1 when 'i' then 4 else 2 end as rank from edge
     union all
    select 'pg_class'::regclass, r.ev_class, e.refclassid, e.refobjid, 3
      from edge e join pg_rewrite r on r.oid = e.objid where e.classid = 'pg_rewrite'::regclass and e.refobjid <> r.ev_class),
cause as (
    select distinct on (classid, objid) classid, objid, refclassid, refobjid from reason order by classid, objid, rank, refclassid, refobjid)
select g.classid, g.objid, coalesce(o.type, '') as type, coalesce(o.identity, '') as identity,
       (g.classid, g.objid) in (select classid, objid from seed) as is_seed,
       coalesce(p.is_inner, false) as is_inner, coalesce(p.is_part, false) as is_part,
       c.relname::text as name, n.nspname::text as schema,
       coalesce(c.relkind in ('r', 'p') and g.objid in (select oid from kept), false) as is_kept_table,
       g.classid = 'pg_attrdef'::regclass or coalesce(k.contype = 'c', false) as is_inline,
       exists (select from pg_depend d where d.classid = g.classid and d.objid = g.objid and d.deptype = 'P') as is_inherited,
       i.type || ' ' || i.identity as cause
  from gone g
  cross join lateral pg_identify_object(g.classid, g.objid, 0) o
  left join part p on p.classid = g.classid and p.objid = g.objid
  left join cause on cause.classid = g.classid and cause.objid = g.objid
  left join lateral pg_identify_object(cause.refclassid, cause.refobjid, 0) i on cause.refobjid is not null
  left join pg_class c on g.classid = 'pg_class'::regclass and c.oid = g.objid
  left join pg_namespace n on n.oid = c.relnamespace
  left join pg_constraint k on g.classid = 'pg_constraint'::regclass and k.oid = g.objid
 where g.classid not in ('pg_amop'::regclass, 'pg_amproc'::regclass) and ($4 or g.classid::regclass::text !~ '^pg_publication')
